"""Images that Sound: images that, read as spectrograms and played, sound like a second prompt."""

import importlib
from typing import TYPE_CHECKING, Any

from its_jax import deprecated
from its_jax.errors import Cancelled, UserError
from its_jax.runtime import xla_flags

if TYPE_CHECKING:
    from its_jax.pipeline.pipeline import Pipeline
    from its_jax.pipeline.sample import Sample

    __version__: str

__all__ = ["Cancelled", "Pipeline", "Sample", "UserError", "__version__"]

xla_flags.set_flags()
deprecated.install()
# JAX is imported when one of these is first used, so that `import its_jax` is fast.
_LAZY = {"Pipeline": "its_jax.pipeline.pipeline", "Sample": "its_jax.pipeline.sample"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from its_jax.runtime.versions import own_version

        return own_version()
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'its_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
