"""Converts PyTorch checkpoints of many layouts to Orbax: `python -m convert --source=MODEL --out=FOLDER`.

`conversion.convert` writes a converted folder; `cache.converted` keeps one for each source.
"""
