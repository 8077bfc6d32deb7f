"""The single rule between a PyTorch state dict and a Flax NNX module.

Our attributes carry PyTorch's names, so the path of a parameter is its key, except for the last name: `kernel`, `scale`
and `embedding` are `weight` in PyTorch. A kernel `[*space, in, out]` is `[out, in, *space]` in PyTorch. This includes
transposed convolutions, which are built with `transpose_kernel=True`. Everything else is the same. There is no table of
names for any model.
"""

import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from its_jax.errors import UserError


def torch_name(path: tuple[Any, ...]) -> str:
    """Returns the key of a parameter: `('down_blocks', 0, 'conv', 'kernel')` -> `'down_blocks.0.conv.weight'`."""
    *parents, leaf = path
    leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
    return ".".join(str(part) for part in (*parents, leaf))


def _to_torch(path, shape_or_array):
    return _transpose(shape_or_array, _axes(path, shape_or_array, reverse=True))


def _axes(path, value, reverse):
    ndim = len(value) if isinstance(value, tuple) else value.ndim
    if path[-1] != "kernel":
        return tuple(range(ndim))
    return (ndim - 1, ndim - 2, *range(ndim - 2)) if reverse else (*range(2, ndim), 1, 0)


def _transpose(value, axes):
    return tuple(value[a] for a in axes) if isinstance(value, tuple) else value.transpose(axes)


def _leaves(module):
    """Returns the (path, variable) pairs of all parameters of a module, concrete or abstract."""
    return sorted(nnx.to_flat_state(nnx.state(module, nnx.Param)), key=lambda item: torch_name(item[0]))


def get_array(variable: Any) -> Any:
    """Returns the array of a variable, whose accessor differs between the supported versions of Flax."""
    (value,) = jax.tree.leaves(variable)
    return value


def abstract_arrays(module: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    """Returns `module(*args, **kw, rngs=...)` with shapes and dtypes in place of weights.

    All weights share one random key, because no value is ever drawn. `nnx.Rngs` would count its keys, and tracing these
    counts takes ten times as long as the rest of a UNet.
    """
    key = jax.random.key(0)
    rngs = types.SimpleNamespace(params=lambda: key)
    return nnx.eval_shape(lambda: module(*args, **kw, rngs=rngs))


def torch_shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the state dict that fits a module, abstract or concrete."""
    return {torch_name(path): _to_torch(path, tuple(get_array(leaf).shape)) for path, leaf in _leaves(module)}


def to_state_dict(module: nnx.Module) -> dict[str, np.ndarray]:
    """Converts a module to a state dict in PyTorch's layout, in the dtype of the module's parameters."""
    return {
        torch_name(path): np.asarray(_to_torch(path, np.asarray(get_array(leaf))), order="C")
        for path, leaf in _leaves(module)
    }


def load_state_dict(
    module: nnx.Module, tensors: Mapping[str, np.ndarray], *, sharding: Any = None, name: str = "model"
) -> Any:
    """Returns a concrete module with the parameters of a state dict.

    Args:
      module: an abstract module, from `abstract_arrays`, or a concrete one. It gives shapes and dtypes, and is not
        changed.
      tensors: arrays by key, read one by one, so that the mapping may be lazy.
      sharding: the placement of each parameter; None is the default device.
      name: the name of the model in error messages.

    Raises:
      UserError: names the first key that is missing or extra, or whose array has another shape or is not finite.
    """
    leaves = dict(_leaves(module))
    state = [
        (path, leaves[path].replace(jax.device_put(value, sharding)))
        for path, value in read_parameters(module, tensors, name=name)
    ]
    return nnx.merge(nnx.graphdef(module), nnx.from_flat_state(state))


def read_parameters(
    module: nnx.Module, tensors: Mapping[str, np.ndarray], *, name: str = "model"
) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Yields path and array of each parameter, in our layout and the module's dtype, reading them one by one.

    Arguments and errors are those of `load_state_dict`.
    """
    shapes = torch_shapes(module)
    check_names(shapes, tensors.keys(), name=name)
    for path, leaf in _leaves(module):
        key, dtype = torch_name(path), get_array(leaf).dtype
        value = np.asarray(tensors[key])
        if value.shape != shapes[key]:
            found, expected = list(value.shape), list(shapes[key])
            raise UserError(f"{name}: tensor {key!r} has shape {found}, the config asks for {expected}")
        value = _transpose(value, _axes(path, value, reverse=False)).astype(dtype)
        if not np.isfinite(value).all():
            raise UserError(f"{name}: tensor {key!r} holds values that are not finite as {dtype}")
        yield path, value


def check_names(expected: Collection[str], found: Collection[str], *, name: str = "model") -> None:
    """Raises `UserError` with the first name that is missing or extra."""
    expected, found = set(expected), set(found)
    if missing := sorted(expected - found):
        raise UserError(f"{name}: tensor {missing[0]!r} is missing ({len(missing)} missing in total)")
    if extra := sorted(found - expected):
        raise UserError(f"{name}: tensor {extra[0]!r} has no place in the model ({len(extra)} extra in total)")
