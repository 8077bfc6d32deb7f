"""The methods by which samples are generated: what each means for the settings, and where it is implemented.

To add a method, write a class with the protocol of `its_jax.pipeline.methods.base.Method` and add an entry here.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from its_jax.errors import UserError

if TYPE_CHECKING:
    from its_jax.settings.schema import SampleSettings


def _accept(settings: "SampleSettings") -> None:
    """Accepts all settings."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """The rules of a method for the settings of a sample.

    Attributes:
      implementation: 'package.module:Class'. It is imported when it is used, because it needs JAX.
      only: the one term that is active, or '' for all.
      separate_runs: whether `image` and `audio` are denoised on their own, each with its own number of steps.
      takes_turns: whether one term is evaluated at each step, in turn.
      denoises: whether latents are denoised by a solver. If not, `num_steps` counts iterations.
      program: samples of methods with equal names here share compiled programs; by default the method shares none.
      check: raises `UserError` for settings that do not suit the method.
    """

    implementation: str
    only: str = ""
    separate_runs: bool = False
    takes_turns: bool = False
    denoises: bool = True
    program: str | None = None
    check: Callable[["SampleSettings"], None] = _accept

    @property
    def program_name(self) -> str:
        """Returns the name of the programs, which other methods may have, too."""
        return self.implementation if self.program is None else self.program

    @property
    def weighted(self) -> bool:
        """Returns whether the weights of terms have an effect."""
        return not (self.only or self.separate_runs)


def refuse(settings: "SampleSettings", *names: str) -> None:
    """Raises `UserError` if a setting is set that the method does not use."""
    for name in names:
        if value := getattr(settings, name):
            raise UserError(f"{name}={value!r}: method={settings.method!r} does not use it; leave it out")


def _check_imprint(settings: Any) -> None:
    refuse(settings, "init_image", "init_audio")
    if extra := [term for term in settings.terms if term not in ("image", "audio")]:
        raise UserError(f"method='imprint' uses only image and audio: remove {extra[-1]}")


def _check_sds(settings: Any) -> None:
    refuse(settings, "init_image", "init_audio", "wrap", "cutoff_latent")
    if settings.cache_interval > 1:
        raise UserError("cache_interval: method='sds' evaluates another noise level at each iteration; set it to 1")
    if settings.noise == "torch":
        raise UserError("noise='torch': method='sds' draws more than the initial noise; set it to 'jax'")


_FUSED = "its_jax.pipeline.methods.fused:Fused"

METHODS: dict[str, MethodSpec] = {
    "fused": MethodSpec(implementation=_FUSED, program=""),
    "image_only": MethodSpec(implementation=_FUSED, program="", only="image"),
    "audio_only": MethodSpec(implementation=_FUSED, program="", only="audio"),
    "alternating": MethodSpec(implementation=_FUSED, program="", takes_turns=True),
    "imprint": MethodSpec(
        implementation="its_jax.pipeline.methods.imprint:Imprint",
        separate_runs=True,
        program="imprint",
        check=_check_imprint,
    ),
    "sds": MethodSpec(
        implementation="its_jax.pipeline.methods.sds:ScoreDistillation",
        denoises=False,
        program="sds",
        check=_check_sds,
    ),
}
