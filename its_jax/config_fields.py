"""Strict reading of a checkpoint's config.json into a frozen dataclass."""

import dataclasses
import types
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from its_jax.errors import UserError

T = TypeVar("T")
# Fields that transformers writes into all of its configs, and that do not change the results.
BOOKKEEPING: tuple[str, ...] = (
    "architectures",
    "dtype",
    "id2label",
    "initializer_factor",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
)


def read_fields(
    cls: type[T],
    raw: Mapping[str, Any],
    *,
    fixed: Mapping[str, Collection[Any]] | None = None,
    ignored: Collection[str] = (),
) -> T:
    """Builds the frozen dataclass `cls` from a config dictionary.

    Args:
      cls: dataclass whose fields are the settings that the model uses; their annotations are binding. A field that is
        itself a config dataclass is read by its `from_dict`.
      raw: the parsed `config.json`. Names that begin with `_` are skipped.
      fixed: settings that change the model, with the only values that are supported.
      ignored: settings that do not change the results of inference.

    Raises:
      UserError: an unknown field, a missing field, a value of the wrong type, or an unsupported value of a fixed field.
    """
    fixed = fixed or {}
    known = get_type_hints(cls)
    used = {}
    for name, value in raw.items():
        if name in known:
            nested = isinstance(value, Mapping) and dataclasses.is_dataclass(known[name])
            used[name] = known[name].from_dict(value) if nested else _frozen(value)
            if not _fits(used[name], known[name]):
                expected = getattr(known[name], "__name__", None) or known[name]
                raise UserError(f"{cls.__name__}: {name}={value!r} is not supported, only {expected}")
        elif name in fixed:
            if _frozen(value) not in fixed[name]:
                supported = " or ".join(repr(v) for v in fixed[name])
                raise UserError(f"{cls.__name__}: {name}={value!r} is not supported, only {supported}")
        elif name not in ignored and not name.startswith("_"):
            raise UserError(f"{cls.__name__}: unknown field {name!r} (value {value!r}); it may change the model")
    required = {
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - used.keys()):
        raise UserError(f"{cls.__name__}: field {missing[0]!r} is missing from the model's config")
    return cls(**used)


def check_sizes(sizes: Any, *names: str) -> None:
    """Raises `UserError` unless these fields of a dataclass, each a number or a tuple of numbers, are 1 or more."""
    for name in names:
        value = getattr(sizes, name)
        if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
            raise UserError(f"{type(sizes).__name__}: {name}={value!r} must be 1 or more")


def check_heads(sizes: Any) -> None:
    """Raises `UserError` unless `hidden_size` is a multiple of the number of attention heads."""
    if sizes.hidden_size % sizes.num_attention_heads:
        raise UserError(
            f"{type(sizes).__name__}: hidden_size {sizes.hidden_size} must be a multiple of "
            f"num_attention_heads {sizes.num_attention_heads}"
        )


def _fits(value, annotation):
    """Returns whether a JSON value matches a field's annotation; `true` is not a number, but 1 is also a float."""
    if isinstance(annotation, types.UnionType):
        return any(_fits(value, kind) for kind in get_args(annotation))
    if get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(annotation)[0]) for v in value)
    return type(value) is annotation or (annotation is float and type(value) is int)


def _frozen(value):
    """Converts lists to tuples, so that configs can be hashed."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value
