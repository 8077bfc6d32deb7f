"""Who may import whom: read from the source, so that it holds for branches which no test enters."""

import ast
import functools
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ENTRY_POINTS = {f"its_jax.{name}" for name in ("sample", "sweep", "top", "evaluate", "colorize", "benchmark", "sign")}
ENTRY_POINTS |= {"its_jax.tiny.train", "its_jax.tiny.evaluate", "its_jax.notebook"}
ENTRY_POINTS |= {f"its_jax.{name}.__main__" for name in ("media", "gallery", "sheet", "versus")}
# What entry points share: it parses the flags for them.
COMMAND_LINE = "its_jax.runtime.cli"
FREE = {"its_jax.errors", "its_jax.fields"}  # without dependencies of their own: all may import them
# What takes a second to import, or more: nobody who asks for --help, or misspells a flag, should wait for it.
SLOW = ("jax", "flax", "orbax", "optax", "numpy", "scipy", "PIL", "soundfile", "transformers", "torch", "diffusers")
TORCH = {"torch", "torchaudio", "torchvision", "diffusers"}


def modules(*folders):
    """Module name -> syntax tree, of all source files in these folders of the repository."""
    return {name: tree for name, tree in _sources().items() if name.split(".")[0] in folders}


@functools.cache
def _sources():
    found = {}
    for folder in ("its_jax", "convert", "configs", "bench", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(tree, *, on_import_only=False):
    """Names that a file imports; `from a import b` counts as `a.b`, which may be a module.

    `on_import_only` leaves out what is imported in a function, when it is called.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide where a thing comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (on_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, on_import_only=on_import_only)


def imports_of(name, packages, **kw):
    """Those imports of the module that are one of the packages, or lie in one."""
    return {i for i in imports(_sources()[name], **kw) if any(f"{i}.".startswith(f"{p}.") for p in packages)}


def assert_none(found):
    """`found`: module -> what it must not import."""
    assert not {name: sorted(what) for name, what in found.items() if what}


def below_entry_points():
    return [name for name in modules("its_jax") if name not in ENTRY_POINTS | {COMMAND_LINE}]


def foreign(name):
    """What a module imports of `its_jax`, `convert` and `configs`, but for what is free to all."""
    return imports_of(name, ["its_jax", "convert", "configs"]) - imports_of(name, FREE)


def third_parties(name):
    """The packages that a module imports, beside Python's own and ours."""
    packages = {i.partition(".")[0] for i in imports(_sources()[name])}
    return packages - set(sys.stdlib_module_names) - {"its_jax", "convert", "configs"}


def test_1_models_know_jax_flax_and_their_layers_only():
    """And those that they are made of; the forms of layers for a device are picked in one place."""
    models = [name for name in modules("its_jax") if name.startswith("its_jax.models.")]
    assert models
    layers = {name: ["its_jax.models.layers"] for name in models}
    made_of = {"forms": "cpu", "clip": "text", "clap": "roberta"}
    for name, other in made_of.items():
        layers[f"its_jax.models.{name}"].append(f"its_jax.models.{other}")
    assert_none({name: foreign(name) - imports_of(name, layers[name]) for name in models})
    assert_none({name: third_parties(name) - {"jax", "flax", "numpy"} for name in models})


def test_2_the_paper_needs_jax_and_numpy_only():
    paper = ["its_jax.diffusion.denoise", "its_jax.diffusion.views", "its_jax.diffusion.windows"]
    assert_none({name: foreign(name) - imports_of(name, paper) for name in paper})
    assert_none({name: third_parties(name) - {"jax", "numpy"} for name in paper})


def test_3_flags_and_configs_end_at_the_entry_points():
    inner = [*below_entry_points(), *(name for name in modules("convert") if name != "convert.__main__")]
    assert_none({name: imports_of(name, ["absl", "ml_collections"]) for name in inner})


def test_3_below_run_functions_take_plain_values():
    plain = [name for name in below_entry_points() if not name.startswith("its_jax.models.")]
    assert_none({name: functions_of_config(modules("its_jax")[name]) for name in plain})


def functions_of_config(tree):
    """Functions with a parameter `config` that is not declared to be a frozen `...Config` of sizes."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {f.name for f in functions if any(map(is_plain_config, ast.walk(f.args)))}


def is_plain_config(node):
    if not (isinstance(node, ast.arg) and node.arg == "config"):
        return False
    return node.annotation is None or not ast.unparse(node.annotation).endswith("Config")


def test_4_configs_are_data():
    assert_none({name: imports_of(name, ["its_jax", "convert", "jax", "flax"]) for name in modules("configs")})


def test_5_torch_is_for_conversion_tests_and_benchmarks():
    assert_none({name: imports_of(name, TORCH) for name in modules("its_jax", "configs")})


def test_5_nothing_that_is_imported_on_the_way_needs_torch():
    """`its_jax.pretrained` converts, so that `convert` must not import torch before it meets a pickle."""
    reached, waiting = set(), set(modules("its_jax"))
    while waiting:
        reached |= waiting
        named = {i for name in waiting for i in imports(_sources()[name], on_import_only=True)}
        named |= {i.rpartition(".")[0] for i in named}
        waiting = (named & _sources().keys()) - reached
    assert_none({name: imports_of(name, TORCH, on_import_only=True) for name in reached})


def test_6_files_and_figures_need_no_jax():
    names = ("media", "files", "store", "samples", "columns", "jobs", "grid", "shards", "noise", "metrics")
    names += ("gallery", "sheet")
    plain = tuple(f"its_jax.{name}." for name in names)
    assert_none({name: imports_of(name, ["jax", "flax"]) for name in _sources() if f"{name}.".startswith(plain)})


def test_6_arrays_leave_the_device_in_one_place():
    """Of what samples: training has its own loop."""
    tools = [name for name in modules("its_jax") if not name.startswith("its_jax.tiny.")]
    uses = [
        f"{name}:{node.lineno}"
        for name in tools
        for node in ast.walk(_sources()[name])
        if isinstance(node, ast.Attribute) and node.attr == "device_get"
    ]
    assert len(uses) <= 2, uses  # samples, and encoded prompts that make room for others


def test_7_nobody_imports_an_entry_point():
    """But `notebook`, which calls them for notebooks."""
    others = modules("its_jax", "convert", "configs", "bench").keys() - {"its_jax.notebook"}
    assert_none({name: imports_of(name, ENTRY_POINTS) for name in others})


def test_modules_in_a_row_are_those_of_every_flax():
    """`nnx.List` and `nnx.Dict` are not in Flax 0.11: `layers.List` and `layers.Group` take their place."""
    newer = {
        f"{name}:{node.lineno}"
        for name, tree in _sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("List", "Dict") and ast.unparse(node.value) == "nnx"
    }
    assert not newer


COMMANDS = [
    "convert",
    *(
        f"its_jax.{name}"
        for name in (
            "sample",
            "sweep",
            "top",
            "benchmark",
            "gallery",
            "sheet",
            "colorize",
            "tiny.train",
            "tiny.evaluate",
        )
    ),
]


def answer(command, *arguments):
    """Exit status and stderr of a command, and which slow modules it imported until it ended."""
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


@pytest.mark.parametrize("command", COMMANDS)
def test_8_commands_answer_at_once(command):
    status, _, imported = answer(command, "--help")
    assert status == 1 and not imported  # absl's status
    status, said, imported = answer(command, "--wrokdir=out")
    assert status == 2 and len(said.splitlines()) == 1 and "wrokdir" in said and not imported


def test_8_a_misspelt_setting_is_told_at_once():
    for command in ("its_jax.sample", "its_jax.benchmark", "its_jax.tiny.evaluate"):
        workdir = [] if command == "its_jax.benchmark" else ["--workdir=out"]
        status, said, imported = answer(command, "--config=configs/default.py", *workdir, "--config.num_step=3")
        assert status == 2 and 'Did you mean "num_steps"' in said and not imported
    for change, told in (("--config.num_steps=0", "num_steps=0"), ("--config.dtype=int8", "choose one of float32")):
        status, said, imported = answer("its_jax.sample", "--config=configs/default.py", "--workdir=out", change)
        assert status == 2 and told in said and not imported
    status, _, imported = answer("its_jax.sample", "--from=/nowhere.png", "--workdir=out")
    assert status == 2 and {"jax", "flax"} <= set(imported)  # they are seen


def test_entry_points_are_where_these_rules_look():
    """A file with a `main` behind `__name__` is an entry point: it must be named above."""
    runs = {name for name, tree in modules("its_jax").items() if "'__main__'" in ast.dump(tree)}
    assert runs <= ENTRY_POINTS
