"""README.md and docs/: messages, links, pictures and files that are named exist."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def messages(path):
    """Of the troubleshooting table: what is quoted in its first column."""
    text = path.read_text(encoding="utf-8")
    table = text.partition("| message |")[2].partition("\n\n")[0]
    return [quote for row in table.splitlines()[2:] for quote in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_messages_are_those_of_the_code():
    known = "\n".join(texts())
    quoted = messages(ROOT / "docs" / "troubleshooting.md")
    assert len(quoted) >= 15
    assert not [message for message in quoted if message not in known]


def texts():
    """Yields all that the sources say, without what is filled in."""
    for folder in ("its_jax", "convert", "bench"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def test_links_and_pictures_are_there():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), f"{path.name}: {target}"


def test_files_that_are_named_are_there():
    """`its_jax/...`, `configs/...` and so on, where no place is left to fill in."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"`((?:its_jax|configs|convert|bench|colab|docs|tests)/[\w./*-]+)(?::\w+)?`", text):
            assert list(ROOT.glob(name.rstrip("/"))), f"{path.name}: {name}"
