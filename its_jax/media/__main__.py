"""The old name of `python -m its_jax.video`, kept for one version."""

import runpy
import warnings

if __name__ == "__main__":
    warnings.warn(
        "python -m its_jax.media is deprecated: use python -m its_jax.video", DeprecationWarning, stacklevel=1
    )
    runpy.run_module("its_jax.video", run_name="__main__", alter_sys=True)
