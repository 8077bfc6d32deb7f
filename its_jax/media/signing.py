"""Content Credentials (C2PA) for finished files, signed with the user's certificate.

It needs `pip install 'its_jax[c2pa]'`. The metadata of a file stays in it.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from its_jax.errors import UserError
from its_jax.media import metadata
from its_jax.storage import files

KINDS = {".png": "image/png", ".wav": "audio/wav", ".flac": "audio/flac", ".mp4": "video/mp4"}
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")


def sign(path: Path, certificate: Path, key: Path, algorithm: str = "es256", timestamps: str = "") -> None:
    """Replaces a file by the result of `signed`, whose arguments these are."""
    files.write(path, signed(path, certificate, key, algorithm, timestamps))


def sign_all(path: Path, sign: Callable[[Path], bytes]) -> list[Path]:
    """Signs a file, or all files of a sample's folder. It changes none of them unless all can be signed.

    Args:
      sign: returns the signed content of a file, such as `signed` with a certificate and its key.

    Returns:
      The signed files.

    Raises:
      UserError: the path does not exist, or holds nothing that can be signed; as `sign`.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    found = sorted(p for p in path.iterdir() if p.suffix in KINDS) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path}: there is nothing in it that can be signed ({', '.join(KINDS)})")
    contents = {file: sign(file) for file in found}
    for file, content in contents.items():
        files.write(file, content)
    return found


def signed(path: Path, certificate: Path, key: Path, algorithm: str = "es256", timestamps: str = "") -> bytes:
    """Returns the content of a file with a signed manifest, which says that a model generated it.

    Args:
      certificate: a PEM file with the signer's certificate, followed by those that vouch for it.
      key: a PEM file with the private key, PKCS #8. algorithm: of the key, one of `ALGORITHMS`.
      timestamps: the address of an authority that signs the time too, or "" for none.

    Raises:
      UserError: c2pa-python is not installed, a file cannot be read, or it cannot be signed with this key.
    """
    c2pa = _c2pa()
    if path.suffix not in KINDS:
        raise UserError(f"{path}: only {', '.join(KINDS)} files can be signed")
    try:
        pem = [Path(name).expanduser().read_bytes() for name in (certificate, key)]
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{getattr(error, 'filename', None) or certificate}: {files.describe(error)}") from error
    result = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(algorithm.encode(), *pem, timestamps.encode() or None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(_manifest(path)) as builder:
            builder.sign(signer, KINDS[path.suffix], io.BytesIO(content), result)
    except c2pa.C2paError as error:
        raise UserError(
            f"{path}: cannot be signed with {certificate} and {key} ({files.describe(error)}); a certificate that "
            "others vouch for must come first, then theirs, and the key must be its own, in PKCS #8"
        ) from error
    return result.getvalue()


def _c2pa() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise UserError("signing needs c2pa-python; pip install 'its_jax[c2pa]'") from error
    return c2pa


def _manifest(path: Path) -> str:
    action = {"action": "c2pa.created", "digitalSourceType": metadata.SOURCE_TYPE, "softwareAgent": {"name": "its_jax"}}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [action]}}
    generator = {"name": "its_jax"}
    return json.dumps({"claim_generator_info": [generator], "title": path.name, "assertions": [actions]})
