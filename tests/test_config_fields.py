"""Strict reading of config files."""

import dataclasses

import pytest

from its_jax.config_fields import check_sizes, read_fields
from its_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int
    scale: float = 1.0
    heads: int | tuple[int, ...] = 2
    dilations: tuple[tuple[int, ...], ...] = ()
    limit: float | None = None
    bias: bool = True


def test_fields_are_read_and_lists_become_tuples():
    raw = dict(width=3, scale=2, heads=[1, 2], dilations=[[1, 3], [5]], limit=None, _version="0", seed=7, act="silu")
    sizes = read_fields(Sizes, raw, fixed={"act": ("silu",)}, ignored=("seed",))
    assert sizes == Sizes(width=3, scale=2, heads=(1, 2), dilations=((1, 3), (5,)))
    hash(sizes)


@pytest.mark.parametrize(
    "raw, message",
    [
        (dict(), "field 'width' is missing"),
        (dict(width=3, depth=4), "unknown field 'depth'"),
        (dict(width=3, act="gelu"), "act='gelu' is not supported, only 'silu'"),
        (dict(width="3"), "width='3' is not supported, only int"),
        (dict(width=None), "width=None"),
        (dict(width=True), "width=True"),
        (dict(width=3.0), "width=3.0"),
        (dict(width=[3]), "width="),
        (dict(width=3, scale="1"), "scale="),
        (dict(width=3, heads=[[1], [2]]), "heads="),
        (dict(width=3, heads=None), "heads=None"),
        (dict(width=3, dilations=[1, 3]), "dilations="),
        (dict(width=3, bias=1), "bias=1"),
    ],
)
def test_an_unsupported_field_is_reported(raw, message):
    with pytest.raises(UserError, match=f"^Sizes: {message}"):
        read_fields(Sizes, raw, fixed={"act": ("silu",)})


@pytest.mark.parametrize("change", [dict(width=0), dict(width=-1), dict(heads=(2, 0)), dict(heads=())])
def test_sizes_must_be_positive(change):
    check_sizes(Sizes(width=1), "width", "heads")
    with pytest.raises(UserError, match=f"{next(iter(change))}=.* must be 1 or more"):
        check_sizes(Sizes(**{"width": 1, **change}), "width", "heads")
