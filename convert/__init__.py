"""PyTorch checkpoints in diffusers' layout -> Orbax checkpoints: `python -m convert --source=... --out=...`."""

from convert.cache import converted
from convert.conversion import METADATA, WEIGHTS, convert

__all__ = ["METADATA", "WEIGHTS", "convert", "converted"]
