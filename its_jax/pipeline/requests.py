"""Keyword arguments of a call -> the settings of each sample."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from its_jax.errors import UserError, unknown_setting
from its_jax.runtime.config_files import SHIPPED, load_config
from its_jax.settings.parse import read_settings
from its_jax.settings.schema import (
    RUN_TYPES,
    SAMPLE_TYPES,
    TERM_TYPES,
    RunOptions,
    SampleSettings,
    term_names,
)
from its_jax.settings.validate import check_seed

DEFAULT_CONFIGS = "default", "sd15_auffusion"


def expand_request(
    base: Mapping[str, Any], changes: Mapping[str, Any], seed: int | Sequence[int] | None, num_samples: int | None
) -> tuple[list[SampleSettings], RunOptions]:
    """Returns the settings of each sample of a call: for each pair of prompts each seed.

    Args:
      base: the settings of a config.
      changes: settings in place of those of `base`. A term is a dictionary of its settings, or its prompt alone;
        prompts may be lists of equal length.
      seed: the first of consecutive seeds, or a list of seeds; None is the seed of `base`.
      num_samples: how many seeds each pair of prompts gets; None is one, or the length of the list of seeds.

    Raises:
      UserError: a setting is unknown or has a wrong value, or lists differ in length.
    """
    settings = merge_settings(base, changes)
    seeds = _seeds(settings["seed"] if seed is None else seed, num_samples)
    for one in seeds:
        check_seed(one)
    requested: list[SampleSettings] = []
    for prompts in _pairs(settings):
        terms = {term: {**settings[term], "prompt": prompt} for term, prompt in prompts.items()}
        (first,), options = read_settings({**settings, **terms, "seed": seeds[0], "num_samples": 1})
        requested += [dataclasses.replace(first, seed=one) for one in seeds]
    return requested, options


def default_settings(mel_bands: int) -> Mapping[str, Any]:
    """Returns the settings of the shipped default config for a kind of models.

    Args:
      mel_bands: the height of the spectrograms that the vocoder takes: 128 for `configs/default.py`, and 256 for
        `configs/sd15_auffusion.py`, whose other settings also serve models of other heights.
    """
    for name in DEFAULT_CONFIGS:
        settings = load_config(SHIPPED / f"{name}.py").to_dict()
        if settings["height"] == mel_bands:
            break
    return settings | {"height": mel_bands}


def plain_settings(settings: Any) -> dict[str, Any]:
    """Returns settings as a dictionary.

    Args:
      settings: a mapping or a ConfigDict.

    Raises:
      UserError: it is neither.
    """
    found = settings.to_dict() if hasattr(settings, "to_dict") else settings
    if not isinstance(found, Mapping):
        raise UserError(f"settings: must be a dictionary or a ConfigDict, not a {type(settings).__name__}")
    return dict(found)


def merge_settings(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of `base` with some of them changed, see `expand_request`."""
    settings, known_terms = dict(base), term_names(base)
    for name, given in changes.items():
        value = plain_settings(given) if hasattr(given, "to_dict") else given
        if name in known_terms:
            settings[name] = {**base.get(name, {}), **_term_changes(name, value, base.get(name, TERM_TYPES))}
        elif name not in SAMPLE_TYPES and name not in RUN_TYPES and not _is_new_term(value):
            raise UserError(unknown_setting(name, base))
        else:
            settings[name] = _plain(value)
    return settings


def _term_changes(term, value, known):
    if not isinstance(value, Mapping):
        return {"prompt": _plain(value)}
    for name in value:
        if name not in TERM_TYPES:
            raise UserError(unknown_setting(name, known, f"{term}."))
    return {name: _plain(one) for name, one in value.items()}


def _is_new_term(value):
    return isinstance(value, Mapping) and "model" in value


def _plain(value):
    """Converts a NumPy number to Python's, and a dtype such as `jnp.float32` or a path to its name."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, type | np.dtype):
        return np.dtype(value).name
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def _seeds(seed, num_samples):
    if isinstance(seed, Sequence) or hasattr(seed, "shape") and seed.shape:
        seeds = [_plain(one) for one in seed]
        if num_samples is not None and num_samples != len(seeds):
            raise UserError(f"num_samples={num_samples}: must be the number of seeds, {len(seeds)}, or left out")
    else:
        count = 1 if num_samples is None else _plain(num_samples)
        if type(count) is not int or count < 1:
            raise UserError(f"num_samples={count!r}: must be 1 or more")
        seed = _plain(seed)
        seeds = [seed + i for i in range(count)] if type(seed) is int else [seed]
    if not seeds or any(type(one) is not int for one in seeds):
        raise UserError(f"seed={seed!r}: must be an integer or a list of integers")
    return seeds


def _pairs(settings):
    """Returns the prompts of all terms, for each pair: a dictionary of those that were given as lists."""
    lists = {
        term: list(settings[term]["prompt"])
        for term in term_names(settings)
        if isinstance(settings.get(term), Mapping) and isinstance(settings[term].get("prompt"), list | tuple)
    }
    lengths = {term: len(prompts) for term, prompts in lists.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = " and ".join(f"{term}.prompt has {length}" for term, length in lengths.items())
        raise UserError(f"{found} prompts: give lists of equal length, or one prompt for all samples")
    count = max(lengths.values(), default=1)
    return [{term: prompts[i] for term, prompts in lists.items()} for i in range(count)]
