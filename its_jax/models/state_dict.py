"""The one rule between a PyTorch state dict and a Flax NNX module.

Our attributes carry PyTorch's names, so a parameter's path is its key, but for the last word: `kernel`,
`scale` and `embedding` are `weight` there. A kernel's axes are reversed in part (`[out, in, *space]` there,
`[*space, in, out]` here; transposed convolutions too, which are built with `transpose_kernel=True`);
everything else is verbatim. There is no table of names for any model.
"""

import types
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from its_jax.errors import UserError


def torch_name(path):
    """`('down_blocks', 0, 'conv', 'kernel')` -> `'down_blocks.0.conv.weight'`."""
    *parents, leaf = path
    leaf = "weight" if leaf in ("kernel", "scale", "embedding") else leaf
    return ".".join(str(part) for part in (*parents, leaf))


def _to_torch(path, shape_or_array):
    return _permuted(shape_or_array, _axes(path, shape_or_array, reverse=True))


def _axes(path, value, reverse):
    ndim = len(value) if isinstance(value, tuple) else value.ndim
    if path[-1] != "kernel":
        return tuple(range(ndim))
    return (ndim - 1, ndim - 2, *range(ndim - 2)) if reverse else (*range(2, ndim), 1, 0)


def _permuted(value, axes):
    return tuple(value[a] for a in axes) if isinstance(value, tuple) else value.transpose(axes)


def _leaves(module):
    """Path, variable pairs of all parameters of a module (concrete or abstract)."""
    return sorted(nnx.to_flat_state(nnx.state(module, nnx.Param)), key=lambda item: torch_name(item[0]))


def array_of(variable):
    """What a variable holds; its accessors differ between the versions of Flax that we support."""
    (value,) = jax.tree.leaves(variable)
    return value


def abstract_arrays(module, *args, **kw):
    """`module(*args, **kw, rngs=...)` with shapes and dtypes in place of weights.

    `nnx.Rngs` counts the keys it gives, and each count is traced at a cost that grows with the trace: ten
    times the rest for a UNet. No value is ever drawn here, so one key does for all.
    """
    key = jax.random.key(0)
    rngs = types.SimpleNamespace(params=lambda: key)
    return nnx.eval_shape(lambda: module(*args, **kw, rngs=rngs))


def torch_shapes(module):
    """Key -> shape of the state dict that fits the module; the module may be abstract."""
    return {torch_name(path): _to_torch(path, tuple(array_of(leaf).shape)) for path, leaf in _leaves(module)}


def to_state_dict(module):
    """Key -> numpy array in PyTorch's layout, in the module's own parameter dtype."""
    return {
        torch_name(path): np.asarray(_to_torch(path, np.asarray(array_of(leaf))), order="C")
        for path, leaf in _leaves(module)
    }


def load_state_dict(module, tensors: Mapping[str, np.ndarray], *, sharding=None, name="model"):
    """Fills an abstract (or concrete) module from a state dict and returns a concrete one.

    Args:
      module: from `abstract`; its leaves give shapes and dtypes. It is not changed.
      tensors: key -> array; read one by one, so it may be lazy.
      sharding: where each parameter goes; None is the default device.
      name: what the error messages call the model.

    Raises:
      UserError: names the first key that is missing, extra, misshapen or not finite.
    """
    leaves = dict(_leaves(module))
    state = [
        (path, leaves[path].replace(jax.device_put(value, sharding)))
        for path, value in read_parameters(module, tensors, name=name)
    ]
    return nnx.merge(nnx.graphdef(module), nnx.from_flat_state(state))


def read_parameters(module, tensors: Mapping[str, np.ndarray], *, name="model"):
    """Yields path and numpy array, in our layout and dtype, of each parameter of a module, read one by one.

    Arguments and errors are those of `load_state_dict`.
    """
    shapes = torch_shapes(module)
    check_names(shapes, tensors.keys(), name=name)
    for path, leaf in _leaves(module):
        key, dtype = torch_name(path), array_of(leaf).dtype
        value = np.asarray(tensors[key])
        if value.shape != shapes[key]:
            found, expected = list(value.shape), list(shapes[key])
            raise UserError(f"{name}: tensor {key!r} has shape {found}, the config asks for {expected}")
        value = _permuted(value, _axes(path, value, reverse=False)).astype(dtype)
        if not np.isfinite(value).all():
            raise UserError(f"{name}: tensor {key!r} holds values that are not finite as {dtype}")
        yield path, value


def check_names(expected, found, *, name="model"):
    """Raises `UserError` naming the first key that is missing or extra."""
    expected, found = set(expected), set(found)
    if missing := sorted(expected - found):
        raise UserError(f"{name}: tensor {missing[0]!r} is missing ({len(missing)} missing in all)")
    if extra := sorted(found - expected):
        raise UserError(f"{name}: tensor {extra[0]!r} has no place in the model ({len(extra)} such in all)")
