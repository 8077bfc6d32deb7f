"""Counts the arithmetic of a function: the products of its matrices and convolutions, from its trace."""

import math
from collections.abc import Callable

import jax
from jax.extend import core


def flops(function: Callable, *args) -> int:
    """Floating-point operations (two for each multiplication and addition) in the products of `function(*args)`.

    Args:
      args: arrays, or pytrees of shapes.

    Of branches, the one with the most counts.
    All else (norms, activations, softmax), a few per cent of the models here, is left out.

    Raises:
      ValueError: a loop without a fixed number of rounds.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr):
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation):
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        places = [kernel[axis] for axis in params["dimension_numbers"].rhs_spec[1:]]  # features in, height, width
        # A transposed convolution spreads its input: of the kernel, only the places that meet it count.
        return 2 * equation.outvars[0].aval.size * math.prod(places) // math.prod(params["lhs_dilation"])
    if name == "while":
        raise ValueError("a loop whose rounds are not known cannot be counted")
    inner = [_count(getattr(jaxpr, "jaxpr", jaxpr)) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * params.get("length", 1) if name == "scan" else sum(inner)


def _jaxprs(params):
    values = (value for param in params.values() for value in (param if isinstance(param, tuple) else (param,)))
    return [value for value in values if isinstance(value, core.Jaxpr | core.ClosedJaxpr)]
