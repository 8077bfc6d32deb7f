"""PyTorch checkpoints of many layouts -> Orbax: `python -m convert --source=... --out=...`.

`conversion.convert` makes a folder, `cache.converted` keeps one for each source.
"""
