"""What a batch that takes long has so far: WORKDIR/.progress/<digits>/, gone once its samples are written.

state_<k>/         all that it takes to go on after k iterations, whole or not there
seconds.json       k -> what they took, those of processes that were broken off included
<id>/<k>.png       the picture of a sample by then, to look at
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from its_jax.media import images
from its_jax.storage import files
from its_jax.storage.files import read_json, write_json

FOLDER = ".progress"
SAVE_SECONDS = 120.0


class ResumeState:
    """That of one batch.

    Args of the constructor:
      workdir: a local folder. what: what the bits of the batch follow from; another batch has another folder.
    """

    def __init__(self, workdir: Path, what: Sequence[str]):
        self.folder = workdir.absolute() / FOLDER / hashlib.sha256("\n".join(what).encode()).hexdigest()[:10]

    def load(self, state: Any) -> tuple[Any, int, float]:
        """The latest state, how many iterations it has behind it, and their seconds; or `state` itself, 0 and 0."""
        saved = self._saved()
        if not saved:
            return state, 0, 0.0
        leaves, tree = jax.tree.flatten(state)
        like = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for a in leaves]
        restored = ocp.load(self.folder / f"state_{saved[-1]}", _named(like))
        state = jax.tree.unflatten(tree, [restored[name] for name in _named(like)])
        return state, saved[-1], self._seconds().get(str(saved[-1]), 0.0)

    def save(self, state: Any, k: int, seconds: float) -> None:
        """UserError: cannot write."""
        before = self._saved()
        with files.explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            known = {old: of for old, of in self._seconds().items() if int(old) in before}
            write_json(self.folder / "seconds.json", known | {str(k): seconds})
            ocp.save(self.folder / f"state_{k}", _named(jax.tree.leaves(state)), overwrite=True)
        for old in set(before) - {k}:
            shutil.rmtree(self.folder / f"state_{old}", ignore_errors=True)

    def show(self, sample: str, k: int, picture: np.ndarray) -> None:
        """Writes the picture `[H, W]` in [0, 1] of a sample. UserError: cannot write."""
        path = self.folder / sample / f"{k:08d}.png"
        with files.explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, images.png(picture, {"id": sample, "iterations": k}))

    def _seconds(self):
        file = self.folder / "seconds.json"
        return read_json(file) if file.exists() else {}

    def _saved(self):
        """Iterations of the states that are there, rising."""
        numbers = (path.name.removeprefix("state_") for path in self.folder.glob("state_*"))
        return sorted(int(number) for number in numbers if number.isdigit())


def remove_state(folder: Path) -> None:
    """What a batch has so far; and the folder of all batches, if there is no other."""
    shutil.rmtree(folder, ignore_errors=True)
    if not any(folder.parent.glob("*")):
        shutil.rmtree(folder.parent, ignore_errors=True)


def _named(leaves):
    return {f"{i:03d}": leaf for i, leaf in enumerate(leaves)}
