"""The console command `its-jax` runs every command as `python -m` does, and lists them."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

from its_jax.runtime import console

ROOT = pathlib.Path(__file__).parents[2]
ITS_JAX = "from its_jax.runtime.console import main; main()"


def run(*command, cwd=ROOT):
    """Runs Python with these arguments; returns its exit status, stdout and stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


def its_jax(*arguments, **options):
    return run("-c", ITS_JAX, *map(str, arguments), **options)


def programs():
    """Returns the modules of the package, and convert, that run with `python -m`."""
    for folder in ("its_jax", "convert"):
        for path in (ROOT / folder).rglob("*.py"):
            if "if __name__ == '__main__'" in ast.unparse(ast.parse(path.read_text(encoding="utf-8"))):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def test_every_program_is_a_command():
    deprecated = {"its_jax.media"}
    assert set(console.COMMANDS.values()) == set(programs()) - deprecated


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_list_has_a_line_for_each_command(arguments):
    status, text, errors = its_jax(*arguments)
    assert status == 0 and not errors and max(map(len, text.splitlines())) <= 100
    lines = [line.split(None, 1) for line in text.splitlines() if line.startswith("  ")]
    assert [name for name, _ in lines] == list(console.COMMANDS)
    assert all(len(about) > 10 for _, about in lines)


def test_an_unknown_command_is_one_line_with_the_nearest():
    assert its_jax("smaple") == (2, "", "error: there is no command smaple; did you mean sample?\n")
    status, _, errors = its_jax("xyzzy")
    assert status == 2 and len(errors.splitlines()) == 1 and "sweep" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "--wrokdir=out"],
        ["sample", "--config=default", "--config.num_steps=0"],
        ["sweep", "--config=nowhere"],
        ["top", "nowhere", "--by=clip"],
        ["convert", "--source=/nowhere"],
        ["video"],
    ],
    ids=" ".join,
)
def test_a_command_answers_as_its_module_does(arguments, tmp_path):
    name, *rest = arguments
    expected = run("-m", console.COMMANDS[name], *rest, cwd=tmp_path)
    assert its_jax(*arguments, cwd=tmp_path) == expected and expected[0] == 2 and len(expected[2].splitlines()) == 1


def test_a_command_writes_what_its_module_writes(tmp_path):
    from tests.helpers import finished_samples

    finished_samples.write(tmp_path / "out", [finished_samples.record()])
    status, text, _ = its_jax("gallery", cwd=tmp_path)
    assert status == 0 and text.rstrip().endswith(str(tmp_path / "out" / "gallery.html"))
    assert (tmp_path / "out" / "gallery.html").exists()


def test_configs_are_listed_with_their_words(tmp_path):
    status, text, _ = its_jax("configs", cwd=tmp_path)
    names = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert status == 0 and {line.split()[0] for line in text.splitlines() if line[0] != " "} == names
    assert max(map(len, text.splitlines())) <= 100
    assert "trees that sound like a train whistle" in text and "views:WORD with one of upside_down, square" in text


def test_a_copy_never_replaces_a_file(tmp_path):
    assert its_jax("configs", "--copy", "default", "mine.py", cwd=tmp_path)[0] == 0
    assert (tmp_path / "mine.py").read_bytes() == (ROOT / "configs" / "default.py").read_bytes()
    (tmp_path / "mine.py").write_text("edited")
    status, _, errors = its_jax("configs", "--copy=default", "mine.py", cwd=tmp_path)
    assert (status, errors) == (2, "error: mine.py: exists; give the name of a new file\n")
    assert (tmp_path / "mine.py").read_text() == "edited" and os.listdir(tmp_path) == ["mine.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--copy=defualt", "mine.py"], "config defualt: neither a file nor a shipped config; shipped are colorize"),
        (["--copy=views:square", "mine.py"], "give the name alone"),
        (["--copy=default"], "give both --copy=NAME and FILE"),
        (["mine.py"], "give both --copy=NAME and FILE"),
        (["--copy=default", "no/such/folder.py"], "no/such/folder.py: cannot be written (No such file or directory)"),
    ],
)
def test_a_copy_that_makes_no_sense_is_refused(arguments, message, tmp_path):
    status, _, errors = its_jax("configs", *arguments, cwd=tmp_path)
    assert status == 2 and len(errors.splitlines()) == 1 and message in errors and not os.listdir(tmp_path)
