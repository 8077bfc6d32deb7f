"""The start of a command: compiled programs are kept, and nothing is imported that it does not need."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(program, **environment):
    """Runs a Python program in a new process and returns its stdout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = inherited | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout


COMPILE_KEPT = """
import jax
from its_jax.runtime.cache import keep_programs
keep_programs()
jax.jit(lambda x: x * 3 + 1)(jax.numpy.ones(7)).block_until_ready()
"""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_programs_are_kept_in_the_cache_folder_or_where_the_user_says(tmp_path, elsewhere):
    ours, theirs = tmp_path / "cache", tmp_path / "elsewhere"
    settings = {"JAX_COMPILATION_CACHE_DIR": str(theirs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    run(COMPILE_KEPT, ITS_JAX_CACHE=str(ours), **settings if elsewhere else {})
    assert (ours / "programs").exists() != elsewhere and theirs.exists() == elsewhere
    assert list((theirs if elsewhere else ours / "programs").iterdir())


# No command imports these at its start: they serve --check, plots, some tokenizers, and the resampling of sounds.
NOT_NEEDED = "torch", "diffusers", "matplotlib", "sentencepiece", "scipy.signal", "scipy.stats"
START = """
import importlib, pkgutil, sys
import its_jax
from its_jax.pretrained import load_model
for module in pkgutil.walk_packages(its_jax.__path__, "its_jax."):
    if not module.name.startswith("its_jax.tiny.") and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
load_model("tiny/image", components=("text_encoder",), dtype="float32").tokenizer("bell")
print(*sys.modules)
"""


def test_all_modules_and_a_tokenizer_import_nothing_that_a_plain_run_does_not_need(tmp_path):
    imported = run(START, ITS_JAX_CACHE=str(tmp_path)).split()
    assert "its_jax.evaluate.report" in imported and "its_jax.generate.samples" in imported
    assert not sorted(set(NOT_NEEDED) & set(imported))
    assert not [name for name in imported if ".modeling_" in name]


def test_a_sweep_with_videos_and_a_gallery_imports_none_of_the_extras(models, tmp_path):
    settings = models | {"num_samples": 1, "num_steps": 2, "height": 12, "width": 48, "video": True}
    flags = [f"--config={ROOT}/configs/default.py", *(f"--config.{name}={value}" for name, value in settings.items())]
    argv = ["its_jax.sweep", f"--workdir={tmp_path}/out", *flags]
    program = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('imported', *sys.modules))\n"
        f"sys.argv = {argv}\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    out = run(program, ITS_JAX_CACHE=str(tmp_path), JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    assert len(list(tmp_path.glob("out/*/video.mp4"))) == 1 and (tmp_path / "out" / "gallery.html").exists()
    imported = out.rpartition("imported")[2].split()
    assert "its_jax.pipeline.pipeline" in imported
    assert not {"torch", "diffusers", "matplotlib", "sentencepiece"} & set(imported)


def test_a_closed_output_ends_the_program_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "its_jax.sweep", "--config=default", f"--workdir={tmp_path / 'out'}", "--plan"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # as `| head -0` does
    assert (process.stderr.read(), process.wait(60)) == ("", 1)
