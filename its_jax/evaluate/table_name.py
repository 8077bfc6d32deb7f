"""The file name of a table: the same arguments give the same name, and other arguments give another one."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from its_jax.storage import files

PLAIN = "evaluation"
_LENGTH = 60  # characters of a name before its digest


def table_arguments(
    folders: Sequence[Path],
    *,
    by: str = "",
    models: Mapping[str, str] | None = None,
    compare_with: Mapping[str, str] | None = None,
    fad_features: str = "",
    extra: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the arguments that decide what a table holds, without those that are not given.

    Args:
      folders: of samples. For the others see `its_jax.evaluate.run.run`.
    """
    compared = {name: _absolute(source) for name, source in (compare_with or {}).items() if source}
    given = {"workdir": list(map(_absolute, folders)), "by": by, **(models or {}), **compared, "extra": sorted(extra)}
    given["fad_features"] = fad_features if "FAD" in compared else ""
    return {name: value for name, value in given.items() if value}


def table_name(arguments: Mapping[str, Any], *, in_own_folder: bool) -> str:
    """Returns the name of a table without a suffix, such as 'evaluation_by-method_1f3a5b7c'.

    Args:
      arguments: of `table_arguments`.
      in_own_folder: whether the table is written into the only work folder, so that its name need not name the folder.
    """
    folders = arguments["workdir"]
    others = {name: value for name, value in arguments.items() if name != "workdir"}
    if in_own_folder and len(folders) == 1 and not others:
        return PLAIN
    words = [PLAIN, *(Path(folder).name for folder in folders[int(in_own_folder) :])]
    words += [f"by-{others['by']}"] if "by" in others else []
    words += others.get("extra", [])
    words += [name for name in others if name not in ("by", "extra", "fad_features")]
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:8]
    readable = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-") for word in words)
    return f"{readable[:_LENGTH].rstrip('_-.')}_{digest}"


def _absolute(path: Any) -> str:
    """Returns the name of a folder or file as it is from any working folder."""
    return files.absolute_path(files.to_path(str(path)))
