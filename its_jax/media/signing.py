"""Content Credentials (C2PA) for finished files, signed with a certificate of the user's own.

It needs `pip install 'its_jax[c2pa]'`. Settings and marks that a file holds stay in it.
"""

import io
import json
from pathlib import Path

from its_jax.errors import UserError
from its_jax.media import metadata
from its_jax.storage import files

KINDS = {".png": "image/png", ".wav": "audio/wav", ".flac": "audio/flac", ".mp4": "video/mp4"}
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")


def sign(path: Path, certificate: Path, key: Path, algorithm: str = "es256", timestamps: str = "") -> None:
    """Puts a signed manifest into a file that says that it was made by models, and with what: `signed`, written."""
    files.write(path, signed(path, certificate, key, algorithm, timestamps))


def signed(path: Path, certificate: Path, key: Path, algorithm: str = "es256", timestamps: str = "") -> bytes:
    """The content of a file with a signed manifest in it.

    Args:
      certificate: PEM, the signer's first, then those that vouch for it. key: PEM, PKCS #8. algorithm: of the key.
      timestamps: address of an authority that signs the time too; "": none is asked.

    Raises:
      UserError: c2pa-python is not installed, a file cannot be read or signed, or not with this key.
    """
    c2pa = _c2pa()
    if path.suffix not in KINDS:
        raise UserError(f"{path}: only {', '.join(KINDS)} files can be signed")
    try:
        pem = [Path(name).expanduser().read_bytes() for name in (certificate, key)]
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{getattr(error, 'filename', None) or certificate}: {files.describe(error)}") from error
    made = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(algorithm.encode(), *pem, timestamps.encode() or None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(_manifest(path)) as builder:
            builder.sign(signer, KINDS[path.suffix], io.BytesIO(content), made)
    except c2pa.C2paError as error:
        raise UserError(
            f"{path}: cannot be signed with {certificate} and {key} ({files.describe(error)}); a certificate that others "
            "vouch for must come first, then theirs, and the key must be its own, in PKCS #8"
        ) from error
    return made.getvalue()


def _c2pa():
    try:
        import c2pa
    except ImportError as error:
        raise UserError("signing needs c2pa-python; pip install 'its_jax[c2pa]'") from error
    return c2pa


def _manifest(path):
    made = {"action": "c2pa.created", "digitalSourceType": metadata.SOURCE_TYPE, "softwareAgent": {"name": "its_jax"}}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [made]}}
    generator = {"name": "its_jax"}
    return json.dumps({"claim_generator_info": [generator], "title": path.name, "assertions": [actions]})
