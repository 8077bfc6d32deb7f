"""Old names of public modules, functions and attributes. They work for one version and warn."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

# Old module -> its new name, and its attributes that were renamed ("new_name") or moved ("module:name").
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "its_jax.denoise": (
        "its_jax.diffusion.denoise",
        {
            "Schedule": "its_jax.diffusion.schedule:NoiseSchedule",
            "SOLVERS": "its_jax.diffusion.solvers:SOLVERS",
            "SolverRows": "its_jax.diffusion.solvers:SolverTable",
            "solver_rows": "its_jax.diffusion.solvers:solver_table",
            "Way": "its_jax.diffusion.feature_cache:Mode",
            "no_inner": "its_jax.diffusion.feature_cache:empty_caches",
            "term_weights": "its_jax.diffusion.term_schedule:term_weights",
            "chosen_ways": "its_jax.diffusion.term_schedule:select_modes",
            "settled": "insert_known",
        },
    ),
    "its_jax.flops": ("its_jax.benchmark.flops", {"flops": "count_flops"}),
    "its_jax.grid": ("its_jax.sweep.grid", {"read": "read_grid"}),
    "its_jax.jobs": (
        "its_jax.settings.schema",
        {
            "kinds": "setting_types",
            "terms": "term_names",
            "METHODS": "its_jax.settings.methods:METHODS",
            "settings_of": "its_jax.settings.records:settings_of",
            "RECORD": "its_jax.settings.records:RECORD",
            "VIDEO": "its_jax.settings.records:VIDEO",
            "job_id": "its_jax.deprecated:job_id",
            # These functions take and return SampleSettings in place of dictionaries.
            "read": "its_jax.settings.parse:read_settings",
            "unknown": "its_jax.errors:unknown_setting",
            "expand": "its_jax.settings.parse:expand",
            "check_names": "its_jax.settings.parse:check_names",
            "typed": "its_jax.settings.parse:parse_types",
            "prompts": "its_jax.settings.steps:term_prompts",
            "pictures": "its_jax.settings.steps:image_terms",
            "first_step": "its_jax.settings.steps:first_step",
            "alone": "its_jax.settings.steps:single_term",
            "runs": "its_jax.settings.steps:denoising_runs",
            "work": "its_jax.settings.steps:total_steps",
            "voices": "its_jax.settings.steps:active_terms",
            "steps": "its_jax.settings.steps:active_steps",
            "weight": "its_jax.settings.steps:term_weight",
            "takes_part": "its_jax.settings.steps:is_active",
            "guided_steps": "its_jax.settings.steps:guided_steps",
            "always_guided": "its_jax.settings.steps:always_guided",
            "program": "its_jax.settings.ids:program_key",
            "shared": "its_jax.settings.ids:batch_key",
            "job_ids": "its_jax.settings.ids:sample_ids",
            "check": "its_jax.settings.validate:validate",
            "check_seed": "its_jax.settings.validate:check_seed",
            "kept_ranges": "its_jax.settings.validate:keep_ranges",
            "check_text": "its_jax.settings.validate:check_text",
            "unfinished": "its_jax.settings.records:unfinished",
            "from_record": "its_jax.settings.records:from_record",
        },
    ),
    "its_jax.load": (
        "its_jax.checkpoints.load",
        {
            "load": "its_jax.deprecated:load",
            "outline": "its_jax.deprecated:outline",
            "check_parts": "its_jax.pretrained:check_components",
            "fill": "restore_weights",
        },
    ),
    "its_jax.metrics": (
        "its_jax.scoring.metrics",
        {
            "frechet": "frechet_distance",
            "mean_and_reach": "mean_and_half_width",
            "wilson": "wilson_interval",
            "check_enough": "check_sample_count",
        },
    ),
    "its_jax.noise": ("its_jax.diffusion.torch_noise", {}),
    "its_jax.ranking": ("its_jax.scoring.ranking", {"top": "best_on_all"}),
    "its_jax.samples": (
        "its_jax.storage.samples",
        {
            "open": "open_samples",
            "one": "open_sample",
            "setting": "get_setting",
            "video": "video_path",
            "colors_folder": "colorings_folder",
            "SOUNDS": "AUDIO_FILES",
        },
    ),
    "its_jax.signing": ("its_jax.media.signing", {}),
    "its_jax.store": (
        "its_jax.storage.writers",
        {"Folders": "FolderWriter", "Shards": "ShardWriter", "open_store": "open_writer", "writers": "writer_names"},
    ),
}

# Old functions of packages that still exist -> their new places.
FUNCTIONS: dict[str, dict[str, str]] = {
    "its_jax.notebook": {"chosen": "its_jax.notebook:best_samples"},
    "its_jax.media": {
        "png": "its_jax.media.images:png",
        "write_png": "its_jax.media.images:write_png",
        "read_png": "its_jax.media.images:read_png",
        "read_picture": "its_jax.media.images:read_image",
        "above": "its_jax.media.images:stack_vertically",
        "contact_sheet": "its_jax.media.images:contact_sheet",
        "wav": "its_jax.media.sounds:wav",
        "flac": "its_jax.media.sounds:flac",
        "write_wav": "its_jax.media.sounds:write_wav",
        "read_wav": "its_jax.media.sounds:read_wav",
        "read_sound": "its_jax.media.sounds:read_audio",
        "video": "its_jax.media.videos:video",
        "write_video": "its_jax.media.videos:write_video",
        "read_settings": "its_jax.media.embedded_settings:read_settings",
        "write_json": "its_jax.storage.files:write_json",
        "text": "its_jax.storage.files:json_bytes",
    },
    "its_jax.scoring": {
        "Item": "its_jax.scoring.item:Item",
        "Scorer": "its_jax.scoring.item:Scorer",
        "OWN": "its_jax.scoring.registry:BUILTIN",
        "EMBEDDED": "its_jax.scoring.registry:EMBEDDED",
        "own": "its_jax.scoring.registry:builtin_columns",
        "check": "its_jax.scoring.registry:check_scorers",
        "load": "its_jax.scoring.registry:load_scorers",
        "scores": "its_jax.scoring.registry:score_item",
    },
}

# Functions of this module that take old arguments -> the functions to use instead.
_ADAPTERS = {
    "its_jax.deprecated:job_id": "its_jax.settings.ids:sample_id",
    "its_jax.deprecated:load": "its_jax.pretrained:load_model",
    "its_jax.deprecated:outline": "its_jax.pretrained:abstract_model",
}

_Class = TypeVar("_Class", bound=type)


def install() -> None:
    """Makes the old modules importable. Modules that exist take precedence."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """A finder of the old modules, which forward their attributes."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Returns the spec of an old module, or None for other names."""
        return importlib.util.spec_from_loader(fullname, self) if fullname in MODULES else None

    def get_code(self, fullname: str) -> None:
        """Returns None: an old module cannot be run, only imported."""

    def exec_module(self, module: types.ModuleType) -> None:
        """Warns of the import and makes the module forward its attributes."""
        new, renamed = MODULES[module.__name__]
        current = {old: _ADAPTERS.get(place, place).replace(":", ".") for old, place in renamed.items()}
        changes = "".join(f"; {old} is now {place}" for old, place in current.items())
        warn(module.__name__, f"{new}{changes}")

        def forward(name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            place = renamed.get(name, name)
            return _resolve(place if ":" in place else f"{new}:{place}")

        module.__getattr__ = forward  # type: ignore[method-assign]


def package_getattr(package: str) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package whose functions have moved into its modules."""

    def forward(name: str) -> Any:
        if name not in FUNCTIONS[package]:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place = FUNCTIONS[package][name]
        warn(f"{package}.{name}", place.replace(":", "."))
        return _resolve(place)

    return forward


def renamed_attributes(**names: str) -> Callable[[_Class], _Class]:
    """Decorates a class whose instances keep attributes under old names: `old="new"`."""

    def decorate(cls: _Class) -> _Class:
        def forward(self: Any, name: str) -> Any:
            if name not in names:
                raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
            warn(f"{cls.__name__}.{name}", f"{cls.__name__}.{names[name]}")
            return getattr(self, names[name])

        cls.__getattr__ = forward  # type: ignore[attr-defined]
        return cls

    return decorate


def job_id(job: Any) -> str:
    """Returns the id of a sample. The settings can be a dictionary, as they were in `its_jax.jobs`."""
    settings_class = _resolve("its_jax.settings.schema:SampleSettings")
    settings = job if isinstance(job, settings_class) else settings_class.from_dict(job)
    return _resolve("its_jax.settings.ids:sample_id")(settings)


def load(source: str, *, parts: Any = None, **options: Any) -> Any:
    """Calls `its_jax.pretrained.load_model`, whose `components` were `parts` in `its_jax.load`."""
    components = {} if parts is None else {"components": parts}
    return _resolve("its_jax.pretrained:load_model")(source, **components, **options)


def outline(source: str, *, parts: Any, **options: Any) -> Any:
    """Calls `its_jax.pretrained.abstract_model`, whose `components` were `parts` in `its_jax.load`."""
    return _resolve("its_jax.pretrained:abstract_model")(source, components=parts, **options)


def _resolve(place: str) -> Any:
    """Imports 'module:name'."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def warn(old: str, new: str) -> None:
    """Warns at the line that uses an old name."""
    message = f"{old} is deprecated and will be removed in the next version: use {new}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
