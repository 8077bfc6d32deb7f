"""The start of a command: compiled programs are kept, and none of PyTorch's models is imported."""

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


TOKENIZER = """
import sys
import its_jax.pipeline.pipeline
from its_jax.pipeline.methods.base import method_class
from its_jax.pretrained import load_model
from its_jax.settings.methods import METHODS
methods = [method_class(name) for name in METHODS]
load_model("tiny/image", components=("text_encoder",), dtype="float32").tokenizer("bell")
print(*(name for name in sys.modules if name.split(".")[0] in ("torch", "diffusers") or ".modeling_" in name))
"""


def test_loading_a_tokenizer_imports_neither_pytorch_nor_its_models(tmp_path):
    imported = run(TOKENIZER, ITS_JAX_CACHE=str(tmp_path)).split()
    assert not imported
