"""Docstrings begin as Google's and NumPy's guides ask: those of functions with a third-person verb."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
VERBS = set((ROOT / "tests/data/docstring_verbs.txt").read_text(encoding="utf-8").split())
SHARE = 0.9


def docstrings(kinds):
    """Returns (place, docstring) of all functions or classes that have one."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", docstring)
        for folder in ("its_jax", "convert", "bench", "configs")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node))
    ]


def first_word(docstring):
    return docstring.split()[0].rstrip(",.:;")


def test_docstrings_of_functions_begin_with_a_verb():
    found = docstrings((ast.FunctionDef, ast.AsyncFunctionDef))
    others = [place for place, docstring in found if first_word(docstring) not in VERBS]
    print(f"{len(found) - len(others)} of {len(found)} begin with a verb of tests/data/docstring_verbs.txt")
    assert len(others) <= (1 - SHARE) * len(found), others


def test_docstrings_of_classes_say_what_the_class_is():
    others = ("Of", "That", "Those", "What", "Where", "How", "And", "By", "With", "For", "As")
    assert not [place for place, docstring in docstrings(ast.ClassDef) if first_word(docstring) in others]


def test_the_list_holds_verbs_in_the_third_person():
    assert all(verb.isalpha() and verb[0].isupper() and verb.endswith("s") for verb in VERBS)
