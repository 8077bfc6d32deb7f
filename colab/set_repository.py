"""Sets the address of the repository for a release: `python colab/set_repository.py https://github.com/NAME/its_jax`.

It is written into CITATION.cff, as the initial value of the forms of the notebooks, and into README.md as the address of
an "Open in Colab" badge.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_FORM = re.compile(r'^source = "[^"]*"', re.MULTILINE)
_BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({})\n\n"


def main(address: str, root: Path = ROOT) -> None:
    """Writes the address into the files below `root`.

    Raises:
      ValueError: it is not the address of a GitHub repository, which is what Colab opens.
    """
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git|/)?", address)
    if match is None:
        raise ValueError(f"{address}: must be as https://github.com/NAME/its_jax")
    name = match[1]
    address = f"https://github.com/{name}"
    for path in sorted((root / "colab").glob("*.ipynb")):
        book = json.loads(path.read_text(encoding="utf-8"))
        for cell in book["cells"]:
            text = _FORM.sub(f'source = "{address}"', "".join(cell["source"]))
            cell["source"] = text.splitlines(keepends=True)
        path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    badge = _BADGE.format(f"https://colab.research.google.com/github/{name}/blob/main/colab/images_that_sound.ipynb")
    _rewrite(root / "README.md", re.escape(_BADGE).replace(r"\{\}", r"\S+"), r"(?<=^# its_jax\n\n)", badge)
    _rewrite(root / "CITATION.cff", "repository-code: .*\n", r"(?=^license: )", f"repository-code: {address}\n")


def _rewrite(path, old, place, new):
    """Removes what matches `old` from a file and inserts `new` at `place`."""
    text = re.sub(old, "", path.read_text(encoding="utf-8"))
    path.write_text(re.sub(place, lambda _: new, text, count=1, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2] or [""])
    except ValueError as error:
        sys.exit(f"error: {error}")
