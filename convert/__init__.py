"""PyTorch checkpoints of many layouts -> Orbax: `python -m convert --source=... --out=...`."""

from convert.cache import converted, parts_of
from convert.conversion import FORMAT, METADATA, WEIGHTS, convert

__all__ = ["FORMAT", "METADATA", "WEIGHTS", "convert", "converted", "parts_of"]
