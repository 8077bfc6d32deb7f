"""Commands answer at once, before what is slow to import."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.console import COMMANDS

ROOT = pathlib.Path(__file__).parents[2]
# Modules that take a second or more to import. Nobody who asks for --help, or misspells a flag, should wait for them.
SLOW = ("jax", "flax", "orbax", "optax", "numpy", "scipy", "PIL", "soundfile", "transformers", "torch", "diffusers")


def answer(command, *arguments):
    """Returns exit status and stderr of a command, and which slow modules it imported until it ended."""
    program = (
        "import atexit, runpy, sys\n"
        f"atexit.register(lambda: print('imported', *sorted(sys.modules.keys() & {set(SLOW)})))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, command, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    return done.returncode, done.stderr, done.stdout.rpartition("imported")[2].split()


@pytest.mark.parametrize("command", ["convert", *(f"its_jax.{name}" for name in COMMANDS)])
def test_commands_answer_at_once(command):
    status, _, imported = answer(command, "--help")
    assert status == 0 and not imported
    status, text, imported = answer(command, "--wrokdir=out")
    assert status == 2 and len(text.splitlines()) == 1 and "wrokdir" in text and not imported


def test_a_misspelled_setting_is_reported_at_once():
    for command in ("its_jax.sample", "its_jax.benchmark", "its_jax.tiny.evaluate"):
        workdir = [] if command == "its_jax.benchmark" else ["--workdir=out"]
        status, text, imported = answer(command, "--config=configs/default.py", *workdir, "--config.num_step=3")
        assert status == 2 and "did you mean num_steps?" in text and not imported
    for change, message in (("--config.num_steps=0", "num_steps=0"), ("--config.dtype=int8", "choose one of float32")):
        status, text, imported = answer("its_jax.sample", "--config=configs/default.py", "--workdir=out", change)
        assert status == 2 and message in text and not imported
    status, _, imported = answer("its_jax.sample", "--from=/nowhere.png", "--workdir=out")
    assert status == 2 and {"jax", "flax"} <= set(imported)  # shows that imports are seen


def test_importing_its_jax_is_fast():
    program = "import its_jax, sys; print(*sorted(sys.modules.keys() & set(sys.argv[1:])))"
    done = subprocess.run([sys.executable, "-c", program, *SLOW], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not done.stdout.split()
