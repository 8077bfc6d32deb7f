"""Images that Sound: pictures that, read as spectrograms and played, sound like a second prompt."""

from its_jax import deprecated
from its_jax.runtime import xla_flags

xla_flags.set_flags()
deprecated.install()
