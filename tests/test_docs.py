"""README.md and docs/: every command runs, in small, or is at least one that could; every message is one of ours.

What needs a network, an accelerator, a cluster or hours is taken apart instead: its module, flags and settings exist.
"""

import ast
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.helpers import credentials
from tests.helpers import finished_samples as finished
from tests.helpers.command_flags import flags_of

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Configs that download nothing, and do not take a minute to compile.
EMBEDDED = "default", "sweep", "views", "imprint", "colorize"
REAL = "imprint", "colorize"  # with a word after the colon
# Sizes that take seconds.
SMALL = "--config.num_steps=2 --config.num_samples=1 --config.video=False --config.height=12".split()
SHORTER = {
    r"seed=0\.\.\d": "seed=0..1",
    r"0\.4\.\.0\.7\.\.0\.1": "0.4",
    "image_only,audio_only,alternating,imprint": "imprint",
    "keep=0-1s": "keep=0-0.02s",
}
SMALL_MODULES = {"its_jax.sample": SMALL, "its_jax.sweep": SMALL}
SCORERS = ["--clip=tiny/clip", "--clap=tiny/clap"]
FEW = ("trials=1", "videos=0", "num_steps=2", "start_step=1", "latent_start_step=1")
FIRST = '--select="$(basename "$(dirname "$(ls out/*/sample.json | head -n 1)")")"'
COLORED = [*(f"--config.colorize.{setting}" for setting in FEW), FIRST]
# What takes minutes or hours, even in small, or is about what is not there.
TAKEN_APART = (
    "its_jax.tiny.train",
    "its_jax.tiny.evaluate",
    "pytest",
    "venv",
    "bench.quality.comparison",
)


def blocks(path):
    return re.findall(r"^```bash\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path):
    """Of the blocks, a line or what is joined by && each."""
    return [part.strip() for block in blocks(path) for line in block.splitlines() for part in line.split("&&")]


def spans(path):
    """`python -m ...` in the text, from there to the end of the quotation that it stands in."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]*python -m [^`]*)`", text):
        yield span[span.index("python -m ") :].split('"')[0].replace("\n", " ")


def split(command):
    """Module and arguments of `python -m MODULE ARGUMENTS`, or None."""
    words = shlex.split(command)
    if len(words) > 2 and words[0].endswith(("python", "python3")) and words[1] == "-m":
        return words[2], words[3:]
    return None


def is_run(command):
    """Whether it runs here: a command of ours on the embedded models."""
    found = split(command)
    if found is None or found[0] in TAKEN_APART:
        return False
    configs = re.findall(r"--config=configs/(\w+)\.py(?::(\w+))?", command)
    return all(name in EMBEDDED and not (name in REAL and example) for name, example in configs)


OF_PAGES = [(path, command) for path in PAGES for command in commands(path)]
IDS = [f"{path.name}: {command[-60:]}" for path, command in OF_PAGES]


@pytest.mark.parametrize(("path", "command"), OF_PAGES, ids=IDS)
def test_documented_commands_name_existing_modules_flags_and_settings(path, command):
    """Its module, flags, config, settings and extras are there."""
    if "pip install" in command:
        for extra in (name for names in re.findall(r"\.\[([\w,]+)\]", command) for name in names.split(",")):
            assert extra in extras()
        return
    check(command)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_paths_within_sentences_exist(path):
    for span in spans(path):
        check(re.sub(r"\.\.\.", "x", span))
    for extra in re.findall(r"pip install -e '\.\[(\w+)\]'", path.read_text(encoding="utf-8")):
        assert extra in extras()


def extras():
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (given,) = [
        node.value for node in ast.walk(setup) if isinstance(node, ast.keyword) and node.arg == "extras_require"
    ]
    return {key.value for key in given.keys}


def test_each_dependency_and_extra_is_listed_with_its_purpose():
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = {name for line in page.splitlines() if line.startswith("| `") for name in re.findall(r"`([^`]+)`", line)}
    (required,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    assert {re.match(r"[\w-]+", name).group() for name in required} | extras() <= listed


def check(command):
    module, arguments = split(command)
    if module in ("venv", "pytest"):
        return
    settings = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name.startswith("--config."):
            settings[name.removeprefix("--config.")] = value
        elif name.startswith("--"):
            assert name.removeprefix("--").replace("-", "_") in flags_of(module), f"{module} has no {name}"
    flat = config_of(arguments, module)
    for name in settings if flat else ():
        group, _, key = name.rpartition(".")
        assert key in (flat[group] if group else flat), f"{command}: the config has no {name}"


def config_of(arguments, module):
    """Returns the settings of --config=configs/FILE.py:ARGUMENT, or of the default config of `its_jax.sample`."""
    default = ["--config=configs/default.py"] * (module == "its_jax.sample")
    for config in (a.partition("=")[2] for a in [*arguments, *default] if a.startswith("--config=configs/")):
        file, _, argument = config.partition(":")
        return runpy.run_path(str(ROOT / file))["get_config"](*[argument] * bool(argument)).to_dict()
    return {}


@pytest.fixture(scope="module")
def place(tmp_path_factory, quick_programs, sources, models):
    """A folder like a clone, in which commands leave their work to those after them."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "its_jax", "convert", "bench"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(next(iter(sounds(folder))), folder / "FILE.wav")
    finished.write(folder / "other", [finished.record({"seed": seed}) for seed in range(2)], height=12, width=48)
    compared = [finished.record({"method": method}) for method in ("fused", "imprint")]
    finished.write(folder / "comparison", compared, height=12, width=48)
    (folder / "MODEL").symlink_to(sources / "audio")
    finished.write(folder / "FILE", [finished.record()])
    (signed,) = (folder / "FILE").glob("*")
    shutil.copytree(signed, folder / "FILE", dirs_exist_ok=True)
    chain, key = credentials.make(tmp_path_factory.mktemp("credentials"))
    shutil.copy(chain, folder / "CHAIN.pem")
    shutil.copy(key, folder / "KEY.pem")
    return folder


def sounds(folder):
    finished.write(folder / "spare", [finished.record()], height=128, width=512, seconds=5.12)
    return (folder / "spare").glob("*/audio.wav")


@pytest.fixture(scope="module")
def run(place, models):
    """Runs a command in small, with small models of random weights; its output."""

    def run_(command):
        module, arguments = split(command.replace("$(ls", "$(/bin/ls"))
        words = [
            f"{shlex.quote(sys.executable)} -m {module}",
            *map(quoted, arguments),
            *small(module, arguments, models),
        ]
        for long, short in SHORTER.items():
            words = [re.sub(long, short, word) for word in words]
        command = " ".join(words).replace("out/ID", '"$(dirname "$(ls out/*/sample.json | head -n 1)")"')
        quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
        environment = os.environ | quick | {"PYTHONPATH": str(place)}
        done = subprocess.run(["bash", "-ec", command], cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    return run_


def quoted(word):
    return f'"{word}"' if "$(" in word else shlex.quote(word)


def small(module, arguments, models):
    if module == "its_jax.evaluate":
        return SCORERS
    if module == "its_jax.colorize":
        return COLORED
    if module not in SMALL_MODULES or any(argument.startswith("--from") for argument in arguments):
        return []
    groups = config_of(arguments, module).items()
    terms = [name for name, group in groups if isinstance(group, dict) and "model" in group]
    folders = {term: models["audio.model" if term == "audio" else "image.model"] for term in terms}
    few = [*SMALL_MODULES[module], *(f"--config.{term}.model={folder}" for term, folder in folders.items())]
    few += [] if any("width" in argument for argument in arguments) else ["--config.width=48"]
    if "--config=configs/sweep.py" in arguments:
        few += ["""--axis=image.prompt='["a painting of dogs, grayscale", "a painting of trees"]'""", "--axis=seed=0"]
    if "--config.init_audio=FILE.wav" in arguments:
        few.remove("--config.num_steps=2")
        few.append("--config.num_steps=4")
    return few


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_commands_of_a_page_run_one_after_another(path, run):
    if path.name != "README.md" and any("workdir" not in command for command in filter(is_run, commands(path))):
        run("python -m its_jax.sample --config=configs/default.py --workdir=out")
    if path.name == "evaluation.md":  # a page about samples that exist
        run("python -m its_jax.sweep --config=configs/sweep.py --workdir=sweep")
    for command in filter(is_run, commands(path)):
        run(command.replace(".venv/bin/", ""))


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


PYTHON_PAGES = [path for path in PAGES if python_blocks(path)]
# Stands in for the embedded models and their size in what runs.
IN_SMALL = {
    '"configs/default.py"': "CONFIG",
    'image="tiny/image", audio="tiny/audio"': "**SMALL",
    "width=256": "width=96",
    "num_steps=10": "num_steps=2",
}


def test_readme_and_docs_show_the_python_api():
    assert {path.name for path in PYTHON_PAGES} >= {"README.md", "python.md"}


@pytest.mark.parametrize("path", PYTHON_PAGES, ids=lambda path: path.name)
def test_python_examples_run_one_after_another(path, small, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    terms = {term: models[f"{term}.model"] for term in ("image", "audio")}
    sizes = {"height": 12, "width": 48, "window": 48, "num_steps": 4, "crop_image": False, "dtype": "float32"}
    namespace = {"CONFIG": small({"num_steps": 4}), "SMALL": terms | sizes}
    for folder in ("out", "sweep"):  # which commands of the page write
        finished.write(
            tmp_path / folder, [finished.record({"seed": seed}, {"clip": 30.0, "clap": 20.0}) for seed in range(2)]
        )
    for block in python_blocks(path):
        for long, short in IN_SMALL.items():
            block = block.replace(long, short)
        exec(compile(block, str(path), "exec"), namespace)
    assert list(tmp_path.glob("out/*/sample.json"))
