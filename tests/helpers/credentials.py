"""A certificate and its key, made as a user's would be, and an authority that vouches for it."""

import subprocess


def make(folder):
    """The files of the chain, and of the key."""
    for name in ("authority", "own"):
        _openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
    uses = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    subject = ("-subj", "/CN=An authority/O=Tests", "-days", "30")
    _openssl(folder, "req", "-x509", "-new", "-key", "authority.key", *subject, *uses, "-out", "authority.pem")
    _openssl(folder, "req", "-new", "-key", "own.key", "-subj", "/CN=Somebody/O=Tests", "-out", "own.csr")
    (folder / "uses").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    by = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", "30", "-extfile", "uses")
    _openssl(folder, "x509", "-req", "-in", "own.csr", *by, "-out", "own.pem")
    (folder / "chain.pem").write_text((folder / "own.pem").read_text() + (folder / "authority.pem").read_text())
    return folder / "chain.pem", folder / "own.key"


def _openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
