"""Rules of import, read from the source, so that they hold for branches that no test enters."""

import ast
import functools
import pathlib
import re
import sys

from tests.helpers.console import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
# The packages and modules of its_jax, and convert, from the lowest layer up. A layer imports only layers below it.
LAYERS = [
    {"errors"},
    {"config_fields", "settings", "runtime", "audio"},
    {"models", "diffusion", "storage"},
    {"checkpoints", "media"},
    {"convert", "gallery", "sign"},
    {"pretrained", "sheet"},
    {"pipeline", "scoring"},
    {"generate", "evaluate", "benchmark", "versus"},
    {"sample", "sweep", "colorize", "top"},
    {"notebook", "tiny", "video"},
]
LIMITS = {"rooms": 30, "layers": 10, "edges": 140}
TORCH = ("torch", "torchaudio", "torchvision", "diffusers")


@functools.cache
def sources():
    """Returns the syntax trees of all source files by module name."""
    found = {}
    for folder in ("its_jax", "convert", "configs", "bench", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def modules(*packages):
    """Returns the names of all modules in these packages."""
    return [name for name in sources() if name.startswith(tuple(f"{package}." for package in packages))]


def imports(tree, *, on_import_only=False):
    """Yields the names that a file imports at run time; `from a import b` counts as `a.b`, which may be a module.

    Args:
      on_import_only: leaves out what is imported in a function when it is called.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide where a thing comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        elif not (on_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, on_import_only=on_import_only)


def imports_of(name, packages, **options):
    """Returns those imports of a module that are one of the packages, or lie in one."""
    prefixes = tuple(f"{package}." for package in packages)
    return {found for found in imports(sources()[name], **options) if f"{found}.".startswith(prefixes)}


def assert_none(found):
    """Asserts that no module has anything that it must not import."""
    assert not {name: sorted(what) for name, what in found.items() if what}


def room(name):
    """Returns the package or module directly inside its_jax that a dotted name lies in, `convert`, or None."""
    first, *rest = name.split(".")
    if first == "convert":
        return "convert"
    return rest[0] if first == "its_jax" and rest and rest[0] in rooms() else None


@functools.cache
def rooms():
    """Returns the packages and modules directly inside its_jax, and convert, without forwarders of old names."""
    inside = {name.split(".")[1] for name in modules("its_jax")}
    return inside - {"deprecated"} | {"convert"}


@functools.cache
def edges():
    """Returns which room imports which, as pairs, with one module that does so."""
    found = {}
    for name in [*modules("its_jax", "convert"), "convert"]:
        for target in map(room, imports(sources()[name])):
            if room(name) and target and target != room(name):
                found.setdefault((room(name), target), name)
    return found


def test_every_room_has_a_layer():
    layered = [name for layer in LAYERS for name in layer]
    assert len(layered) == len(set(layered)) and set(layered) == rooms()


def test_a_layer_imports_only_layers_below_it():
    """Without upward imports there are no cycles."""
    height = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    upward = {f"{here} -> {there} ({name})" for (here, there), name in edges().items() if height[there] >= height[here]}
    assert not upward


def test_rooms_layers_and_edges_stay_within_their_limits():
    counts = {"rooms": len(rooms()), "layers": len(LAYERS), "edges": len(edges())}
    print(", ".join(f"{count} {name} (at most {LIMITS[name]})" for name, count in counts.items()))
    assert all(count <= LIMITS[name] for name, count in counts.items()), counts


def test_one_module_imports_convert():
    importers = {name for name in modules("its_jax") if imports_of(name, ["convert"])}
    assert importers == {"its_jax.pretrained"}


def test_models_import_jax_flax_and_each_other():
    allowed = {"models", "config_fields", "errors"}
    assert_none(
        {name: set(map(room, imports_of(name, ["its_jax", "convert"]))) - allowed for name in modules("its_jax.models")}
    )
    assert_none({name: third_parties(name) - {"jax", "flax", "numpy"} for name in modules("its_jax.models")})


def test_diffusion_imports_jax_and_numpy():
    allowed = {"diffusion", "config_fields", "errors"}
    names = modules("its_jax.diffusion")
    assert_none({name: set(map(room, imports_of(name, ["its_jax", "convert"]))) - allowed for name in names})
    assert_none({name: third_parties(name) - {"jax", "numpy"} for name in names})


def third_parties(name):
    """Returns the packages that a module imports, without Python's own and ours."""
    packages = {found.partition(".")[0] for found in imports(sources()[name])}
    return packages - set(sys.stdlib_module_names) - {"its_jax", "convert", "configs"}


def is_command(name):
    return name.endswith(".__main__") or name.removeprefix("its_jax.") in COMMANDS


def test_flags_and_configs_end_at_the_commands():
    allowed = {"its_jax.runtime.cli", "its_jax.runtime.help_page", "its_jax.notebook"}
    inner = [name for name in modules("its_jax", "convert") if not is_command(name) and name not in allowed]
    assert_none({name: imports_of(name, ["absl", "ml_collections"]) for name in inner})


def test_configs_import_only_what_finds_other_configs():
    """A copy of a config in another folder finds the shipped config that it builds on."""
    allowed = {"its_jax.runtime.config_files.SHIPPED", "its_jax.runtime.config_files.shipped"}
    packages = ["its_jax", "convert", "jax", "flax"]
    assert_none({name: imports_of(name, packages) - allowed for name in modules("configs")})


def test_torch_is_for_conversion_tests_and_benchmarks():
    assert_none({name: imports_of(name, TORCH) for name in modules("its_jax", "configs")})


def test_importing_its_jax_never_imports_torch():
    """The module `pretrained` converts, so `convert` must not import torch before it meets a pickle."""
    reached, waiting = set(), set(modules("its_jax"))
    while waiting:
        reached |= waiting
        named = {found for name in waiting for found in imports(sources()[name], on_import_only=True)}
        named |= {found.rpartition(".")[0] for found in named}
        waiting = (named & sources().keys()) - reached
    assert_none({name: imports_of(name, TORCH, on_import_only=True) for name in reached})


def test_settings_files_and_pages_need_no_jax():
    packages = ("settings", "storage", "media", "gallery", "versus", "scoring.metrics", "scoring.ranking", "sweep.grid")
    names = [name for name in sources() if f"{name}.".startswith(tuple(f"its_jax.{package}." for package in packages))]
    assert_none({name: imports_of(name, ["jax", "flax"]) for name in names})


def test_nobody_imports_a_command():
    """Except `notebook`, which calls them for notebooks."""
    others = [name for name in modules("its_jax", "convert", "configs", "bench") if name != "its_jax.notebook"]
    files = [f"its_jax.{name}" for name in COMMANDS if f"its_jax.{name}.__main__" not in sources()]
    mains = [name for name in sources() if name.endswith(".__main__")]
    assert_none({name: imports_of(name, [*files, *mains]) - {name} for name in others})


def test_every_program_is_a_known_command():
    """A file with a `main` behind `__name__` is a command: its package or module must be named above."""
    runs = {name for name in modules("its_jax") if "'__main__'" in ast.dump(sources()[name])}
    assert {name.removeprefix("its_jax.").removesuffix(".__main__") for name in runs} <= {
        *COMMANDS,
        "media",
        "runtime.console",
    }


def test_package_files_hold_re_exports_only():
    allowed = ast.Import | ast.ImportFrom | ast.Expr | ast.Assign | ast.If
    packages = [
        name for name in modules("its_jax", "convert") if (ROOT / name.replace(".", "/") / "__init__.py").exists()
    ]
    found = {
        name: [
            type(node).__name__
            for node in sources()[name].body
            if not isinstance(node, allowed) and not is_getattr(node)
        ]
        for name in packages
    }
    assert_none(found)


def is_getattr(node):
    return isinstance(node, ast.FunctionDef) and node.name == "__getattr__"


def test_modules_in_a_row_are_those_of_every_flax():
    """Flax 0.11 does not have `nnx.List` and `nnx.Dict`: `layers.List` and `layers.Group` take their place."""
    newer = {
        f"{name}:{node.lineno}"
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("List", "Dict") and ast.unparse(node.value) == "nnx"
    }
    assert not newer


def test_files_are_short_and_classes_small():
    """Models and data may be longer where they read better in one piece."""
    models_and_data = re.compile("its_jax/(models/.*|tiny/data/pictures.py)")
    for folder in ("its_jax", "convert", "configs", "bench", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            name, length = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8").count("\n")
            assert length <= 300 or models_and_data.fullmatch(name), f"{name} has {length} lines"
    for name in modules("its_jax", "convert"):
        for node in ast.walk(sources()[name]):
            if isinstance(node, ast.ClassDef):
                methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
                assert len(methods) <= 20, f"{name}.{node.name} has {len(methods)} methods"


def test_the_paper_fits_in_one_short_file():
    assert len((ROOT / "its_jax/diffusion/denoise.py").read_text(encoding="utf-8").splitlines()) <= 180
