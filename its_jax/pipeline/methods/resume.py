"""Saves the state of a batch that takes long, so that an interrupted run can be resumed.

It lies in WORKDIR/.progress/<digits>/ and is removed once the samples of the batch are written.

    state_<k>/         the state after k iterations, complete or absent
    seconds.json       for each k the time so far, with that of interrupted processes
    <id>/<k>.png       the image of a sample after k iterations, to look at
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
    """The saved state of one batch.

    Args of the constructor:
      workdir: a local folder.
      key: what determines the bits of the batch; batches with other keys have other folders.
    """

    def __init__(self, workdir: Path, key: Sequence[str]):
        self.folder = workdir.absolute() / FOLDER / hashlib.sha256("\n".join(key).encode()).hexdigest()[:10]

    def load(self, state: Any) -> tuple[Any, int, float]:
        """Returns the latest saved state, its number of iterations and their seconds; or `state`, 0 and 0."""
        saved = self._saved()
        if not saved:
            return state, 0, 0.0
        leaves, tree = jax.tree.flatten(state)
        like = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for a in leaves]
        restored = ocp.load(self.folder / f"state_{saved[-1]}", _named(like))
        state = jax.tree.unflatten(tree, [restored[name] for name in _named(like)])
        return state, saved[-1], self._seconds().get(str(saved[-1]), 0.0)

    def save(self, state: Any, k: int, seconds: float) -> None:
        """Saves the state after k iterations, and removes older ones. UserError: it cannot be written."""
        before = self._saved()
        with files.explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            known = {old: of for old, of in self._seconds().items() if int(old) in before}
            write_json(self.folder / "seconds.json", known | {str(k): seconds})
            ocp.save(self.folder / f"state_{k}", _named(jax.tree.leaves(state)), overwrite=True)
        for old in set(before) - {k}:
            shutil.rmtree(self.folder / f"state_{old}", ignore_errors=True)

    def show(self, sample: str, k: int, image: np.ndarray) -> None:
        """Writes the image `[H, W]` in [0, 1] of a sample. UserError: it cannot be written."""
        path = self.folder / sample / f"{k:08d}.png"
        with files.explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, images.png(image, {"id": sample, "iterations": k}))

    def _seconds(self):
        file = self.folder / "seconds.json"
        return read_json(file) if file.exists() else {}

    def _saved(self):
        """Returns the iterations of the saved states, in rising order."""
        numbers = (path.name.removeprefix("state_") for path in self.folder.glob("state_*"))
        return sorted(int(number) for number in numbers if number.isdigit())


def remove_state(folder: Path) -> None:
    """Removes the state of a batch, and the folder of all batches if it is empty then."""
    shutil.rmtree(folder, ignore_errors=True)
    if not any(folder.parent.glob("*")):
        shutil.rmtree(folder.parent, ignore_errors=True)


def _named(leaves):
    return {f"{i:03d}": leaf for i, leaf in enumerate(leaves)}
