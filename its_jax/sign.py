"""Signs finished files as made by models: `python -m its_jax.sign FILE --certificate=CHAIN.pem --key=KEY.pem`.

FILE is a picture, sound or video, or the folder of a sample, all of whose files are signed. See `its_jax.media.signing`.
"""

import logging
from pathlib import Path

from absl import flags

from its_jax.errors import UserError
from its_jax.media import signing
from its_jax.runtime import cli
from its_jax.storage import files

_CERTIFICATE = flags.DEFINE_string("certificate", None, "PEM: yours, then those that vouch for it; not self-signed.")
_KEY = flags.DEFINE_string("key", None, "PEM: its private key, PKCS #8 (openssl pkcs8 -topk8 -nocrypt makes that).")
_ALGORITHM = flags.DEFINE_enum("algorithm", "es256", signing.ALGORITHMS, "Of the key.")
_TIMESTAMPS = flags.DEFINE_string("timestamps", "", "Address of a time stamp authority; none is asked without.")


def main(file):
    if not (_CERTIFICATE.value and _KEY.value):
        raise UserError("give --certificate=CHAIN.pem and --key=KEY.pem")
    path = Path(file)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    found = sorted(p for p in path.iterdir() if p.suffix in signing.KINDS) if path.is_dir() else [path]
    if not found:
        raise UserError(f"{path}: there is nothing in it that can be signed ({', '.join(signing.KINDS)})")
    how = Path(_CERTIFICATE.value), Path(_KEY.value), _ALGORITHM.value, _TIMESTAMPS.value
    signed = {each: signing.signed(each, *how) for each in found}  # all, before any is changed
    for each, content in signed.items():
        files.write(each, content)
        logging.info("%s is signed", each)


if __name__ == "__main__":
    cli.run(main, "FILE")
