"""Tests of a release: the contents of the wheel, the version in all places, and the types of public functions."""

import ast
import configparser
import email.parser
import os
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml

import its_jax

ROOT = pathlib.Path(__file__).parents[1]
# The public API: what programs of others import. Its functions tell the types of all that they take and give.
PUBLIC = ("diffusion", "pipeline", "checkpoints", "settings", "scoring", "storage", "media", "sweep.grid")
LARGEST = 60 * 10**6  # bytes of the wheel
LARGE = 256 * 2**10  # no file but weights exceeds this many bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what git has, so that nothing else gets in or is left behind."""
    folder = tmp_path_factory.mktemp("release")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists() and not name.startswith(("bench/", "tests/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_the_wheel_holds_weights_and_nothing_else_of_size(wheel):
    sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
    assert sum(entry.compress_size for entry in wheel.infolist()) < LARGEST
    large = {name for name, size in sizes.items() if size > LARGE}
    assert large and all(re.fullmatch(r"its_jax/tiny/weights/.+\.safetensors", name) for name in large), large
    assert {name.split("/")[0] for name in sizes} <= {"its_jax", "convert", f"its_jax-{version()}.dist-info"}


def test_the_wheel_contains_every_file_of_the_package(wheel):
    names = set(wheel.namelist())
    weights = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "its_jax/tiny/weights").rglob("*") if path.is_file()
    }
    web = {path.relative_to(ROOT).as_posix() for path in (ROOT / "its_jax").rglob("web/*")}
    assert weights | web | {"its_jax/py.typed"} <= names
    (licence,) = [name for name in names if name.endswith("LICENSE")]
    assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    metadata = email.parser.Parser().parsestr(wheel.read(f"its_jax-{version()}.dist-info/METADATA").decode())
    assert metadata["Version"] == version()
    assert "Apache-2.0" in (metadata["License-Expression"], metadata["License"])
    assert {"convert", "cuda", "tpu", "ray", "gcs", "eval", "c2pa"} <= set(metadata.get_all("Provides-Extra"))


def test_the_wheel_has_the_configs_and_the_command(wheel):
    configs = {f"its_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.*")}
    assert len(configs) > 5 and configs <= set(wheel.namelist())
    entry_points = configparser.ConfigParser()
    entry_points.read_string(wheel.read(f"its_jax-{version()}.dist-info/entry_points.txt").decode())
    module, _, function = entry_points["console_scripts"]["its-jax"].partition(":")
    assert f"{module.replace('.', '/')}.py" in wheel.namelist() and function == "main"


def test_the_command_works_from_the_wheel_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site-packages", tmp_path / "empty"
    wheel.extractall(site)
    empty.mkdir()

    def its_jax(*arguments):
        program = "from its_jax.runtime.console import main; main()"
        environment = os.environ | {"PYTHONPATH": str(site)}
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    assert "sd15_auffusion:WORD with one of bell, corgi" in its_jax("configs").stdout
    for config in ([], ["--config=default"], ["--config=imprint:tiger"], ["--config=configs/views.py"]):
        done = its_jax("sample", *config, "--config.num_steps=0")  # settings are read, and refused
        assert done.returncode == 2 and done.stderr.startswith("error: num_steps=0: must be 1 or more"), done.stderr
    assert its_jax("configs", "--copy=comparison", "mine.py").returncode == 0
    plan = its_jax("sweep", "--config=mine.py:sds", "--plan")
    assert plan.returncode == 0 and "12 samples" in plan.stdout, plan.stderr
    assert {path.name for path in empty.iterdir()} <= {"mine.py", "__pycache__", "out"}


def version():
    return re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))[1]


def test_all_files_name_the_same_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## ([\d.]+)", changes, re.MULTILINE)[1] == version()
    assert citation()["version"] == version()
    assert its_jax.__version__ == version(), "install the package again: its metadata is of another version"


def citation():
    """Returns the content of CITATION.cff."""
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_citation_names_the_paper_the_software_and_the_license_of_the_package():
    found, paper = citation(), citation()["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Chen", "Geng", "Owens"]
    assert paper["title"] == "Images that Sound: Composing Images and Sounds on a Single Canvas"
    assert (paper["year"], paper["url"]) == (2024, "https://arxiv.org/abs/2405.12221")
    assert found["authors"] == [{"name": "its_jax contributors"}]
    assert f'license="{found["license"]}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
    # A version that is not released has no date yet, in either file.
    released = "not released" not in newest_changes()
    assert ("date-released" in found) == released


def newest_changes():
    """Returns the heading of the newest version in CHANGELOG.md."""
    return re.search(r"^## .+", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0]


def test_what_the_newest_changes_name_exists():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    names = set(re.findall(r"\b(?:its_jax|convert)(?:[.:]\w+)+", changes))
    modules = {name for name in names if is_module(name)}
    assert len(modules) > 5 and len(names) > len(modules)
    for name in names - modules:
        pkgutil.resolve_name(name)


def is_module(name):
    """Returns whether a name is that of a module. Commands are not imported, because they define flags."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_annotated(name):
    place = ROOT / "its_jax" / name.replace(".", "/")
    for path in [*place.rglob("*.py")] or [place.with_suffix(".py")]:
        for function in public(ast.parse(path.read_text(encoding="utf-8"))):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            missing = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert not missing, f"{path}: {function.name}: {', '.join(missing)}"
            assert function.returns is not None or function.name == "__init__", f"{path}: {function.name}"


def public(tree):
    """Yields the functions of a module, and methods of its classes, that have no underscore."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            yield node
