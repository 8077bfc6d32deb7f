"""The format of converted models: folders that `convert` writes and `its_jax.checkpoints.load` reads."""

import pathlib
from typing import Any

from its_jax.errors import UserError
from its_jax.storage.files import read_json

METADATA = "its_jax.json"  # describes the conversion; it is written last
WEIGHTS = "weights"  # the folder of the Orbax checkpoints, in the folder of each component
FORMAT = 3  # increases when older conversions can no longer be read


def read_metadata(folder: pathlib.Path, source: str) -> dict[str, Any]:
    """Reads what a conversion records about itself, and checks that its files exist in full size.

    Args:
      folder: the converted model.
      source: how error messages call the model.

    Returns:
      The content of `its_jax.json`: `format`, `source`, `loras`, `identity`, `parts` (component -> its sha256 and
      dtype) and `files` (name -> bytes).

    Raises:
      UserError: the folder has another format, or a file is missing, truncated or damaged.
    """
    metadata = read_json(folder / METADATA)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{source}: converted in format {metadata.get('format')}, not {FORMAT}; convert it again")
    if not all(isinstance(metadata.get(key), dict) for key in ("files", "parts")):
        raise UserError(f"{folder / METADATA}: damaged; delete {folder} and convert again")
    for name, size in metadata["files"].items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            problem = "missing from the converted model" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(f"{file}: {problem}; delete {folder} and convert again")
    return metadata
