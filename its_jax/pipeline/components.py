"""The models of all terms: loaded, checked against each other and placed on devices. They survive a change of shape."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from its_jax.audio.mel import MelConfig
from its_jax.checkpoints.model import Model
from its_jax.diffusion.views import VIEWS
from its_jax.errors import UserError
from its_jax.models import backends
from its_jax.models.if_unet import PixelUNet
from its_jax.pipeline import decoding, prompts, t5_embeddings
from its_jax.pipeline.init_latent import InitLatents
from its_jax.pipeline.placement import DataParallel
from its_jax.pipeline.prompt_encoder import PromptEncoder
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import denoising_runs, image_terms, term_prompts

LATENT_COMPONENTS, PIXEL_COMPONENTS = ("text_encoder", "unet", "vae"), ("text_encoder", "unet")


class Loader(Protocol):
    """Loads models, as the module `its_jax.pretrained` does."""

    def check_components(self, source: str, components: Sequence[str]) -> None:
        """Raises `UserError` unless the model exists and has the components."""
        ...

    def abstract_model(self, source: str, *, components: Sequence[str], dtype: Any) -> Model:
        """Returns the model with the shapes of its weights in place of the weights."""
        ...

    def restore_weights(self, model: Model, *, sharding: Any, share: Sequence[Model]) -> Model:
        """Returns the model with its weights on devices; those that it has in common with `share` are not loaded."""
        ...


@dataclasses.dataclass(frozen=True)
class Requirements:
    """The requirements of a method for its models.

    Attributes:
      pixel_models: whether models of pixels may take part beside models of latents.
      gradients: whether VAEs are differentiated.
    """

    pixel_models: bool = False
    gradients: bool = False


class Components:
    """The models of the terms of a sample.

    Attributes:
      models: by term; terms of one source share their model.
      placement: where models and batches lie.
      prompts: encodes the prompts of all terms.
      unets: the UNets of all terms, as the denoising program takes them.
      vaes: each VAE once, though models may share it.
      init_latents: encodes the files that samples start from.
    """

    def __init__(self, models: Mapping[str, Model], placement: DataParallel, pixel_models: Mapping[str, Model]):
        self.models, self.placement = models, placement
        self.prompts = PromptEncoder(models, placement, pixel_models)
        prepared = {id(model.unet): _prepare_unet(model) for model in models.values()}
        self.unet_list = [prepared[id(model.unet)] for model in models.values()]
        self.unets = placement.models(self.unet_list)
        vaes = {id(model.vae): model.vae for model in models.values() if model.vae is not None}
        self.vaes: tuple[Any, ...] = tuple(vaes.values())
        self.init_latents = InitLatents(self)

    @property
    def schedule(self) -> Any:
        """Returns the noise schedule of the image model, whose steps all terms follow."""
        return self.models["image"].schedule

    @property
    def vae(self) -> Any:
        """Returns the VAE that decodes the spectrogram."""
        return self.models["audio"].vae

    @property
    def vocoder(self) -> Any:
        """Returns the vocoder of the audio model."""
        return self.models["audio"].vocoder

    @property
    def identities(self) -> dict[str, str]:
        """Returns the identity of each term's model, see `Model`."""
        return {term: model.identity for term, model in self.models.items()}

    def mel(self, height: int) -> MelConfig:
        """Returns the vocoder's mel front end; `UserError` if the canvas has another height."""
        return decoding.mel_config(self.vocoder.config, height)

    def latent_shape(self, settings: SampleSettings) -> tuple[int, int, int]:
        """Returns height, width and channels of a sample's latent."""
        config = self.vae.config
        return settings.height // config.factor, settings.width // config.factor, config.latent_channels

    def frames(self, settings: SampleSettings) -> tuple[tuple[int, Any], ...]:
        """Returns, for the spectrogram and each image, the index of its VAE in `vaes` and its view."""
        index = {id(vae): i for i, vae in enumerate(self.vaes)}
        return tuple(
            (index[id(self.models[term].vae)], VIEWS[settings.terms[term].view])
            for term in ("audio", *image_terms(settings))
        )

    def check(self, settings: SampleSettings) -> None:
        """Raises `UserError` if these models cannot generate a sample with these settings."""
        check_canvas(settings, self.models)


def components_key(settings: SampleSettings, devices_per_sample: int, requirements: Requirements) -> tuple[Any, ...]:
    """Returns what settings must agree in to use the same components."""
    sources = tuple((name, term.model) for name, term in settings.terms.items())
    return settings.dtype, devices_per_sample, sources, requirements


def open_models(
    settings: SampleSettings,
    placement: DataParallel,
    loader: Loader,
    requirements: Requirements,
    check: Callable[[Mapping[str, Model], DataParallel], None],
) -> dict[str, Model]:
    """Opens the models of a sample without their weights, and checks that they fit each other and the settings.

    Args:
      check: the method's own check of its models, see `methods.base.Method.check`.

    Returns:
      by source, models with shapes in place of weights.

    Raises:
      UserError: a model cannot be opened, the models do not fit each other, or the settings do not fit them.
    """
    dtype = jnp.dtype(settings.dtype)
    needed = _needed_components(settings, loader, dtype, requirements)
    for source, components in needed.items():
        loader.check_components(source, components)
    abstract = {
        source: loader.abstract_model(source, components=names, dtype=dtype) for source, names in needed.items()
    }
    models: dict[str, Any] = {name: abstract[term.model] for name, term in settings.terms.items()}
    check_models(models)
    check_canvas(settings, models)
    placement.check(models)
    check(models, placement)
    decoding.mel_config(models["audio"].vocoder.config, settings.height)
    return abstract


def load_components(
    settings: SampleSettings,
    placement: DataParallel,
    loader: Loader,
    requirements: Requirements,
    opened: Mapping[str, Model],
    share: Sequence[Model] = (),
) -> Components:
    """Loads the weights of models.

    Args:
      opened: the result of `open_models`.
      share: models that are loaded with the same dtype and placement; what equals one of theirs is not loaded again.

    Raises:
      UserError: weights cannot be read.
    """
    abstract = dict(opened)
    models = {name: abstract[term.model] for name, term in settings.terms.items()}
    pixel_models = {source: model for source, model in abstract.items() if is_pixel_model(model)}
    requested = [prompt for term in settings.terms for prompt in term_prompts(settings, term)]
    for source, model in pixel_models.items():
        # T5-XXL fills a device, so its texts are computed before other models are loaded.
        t5_embeddings.embed(model, requested)
        abstract[source] = dataclasses.replace(model, text_encoder=None)
    loaded = _load_weights(abstract, [model.source for model in models.values()], placement, loader, share)
    for model in loaded.values():
        _specialize(model, placement.device, requirements.gradients)
    return Components({name: loaded[model.source] for name, model in models.items()}, placement, pixel_models)


def _needed_components(settings, loader, dtype, requirements):
    needed: dict[str, tuple[str, ...]] = {}
    for name, term in settings.terms.items():
        components = LATENT_COMPONENTS
        if requirements.pixel_models:
            unet = loader.abstract_model(term.model, components=("unet",), dtype=dtype).unet
            components = PIXEL_COMPONENTS if isinstance(unet, PixelUNet) else LATENT_COMPONENTS
        components += ("vocoder",) * (name == "audio")
        needed[term.model] = max(needed.get(term.model, ()), components, key=len)
    return needed


def _load_weights(abstract, sources, placement, loader, share):
    """Loads each source, where terms, in their order, use these `sources`."""
    loaded: dict[str, Model] = {}
    for source, model in abstract.items():
        own = placement.model_sharding([i for i, other in enumerate(sources) if other == source])
        shardings = {"text_encoder": own, "unet": own}
        shardings |= {"vae": placement.replicated, "vocoder": placement.replicated}
        loaded[source] = loader.restore_weights(model, sharding=shardings, share=[*share, *loaded.values()])
    return loaded


def _specialize(model, device, gradients):
    backends.specialize(model.unet, device, prepare=True)
    for module in (model.text_encoder, model.vae, model.vocoder):
        if module is not None:
            backends.specialize(module, device)
    if gradients and model.vae is not None:
        backends.use_reference_kernels(model.vae, device)


def is_pixel_model(model: Model) -> bool:
    """Returns whether a model denoises pixels in place of latents."""
    return isinstance(model.unet, PixelUNet)


def _prepare_unet(model):
    return (
        model.unet if is_pixel_model(model) else prompts.precompute_unet(model.unet, model.schedule.num_train_timesteps)
    )


def check_models(models: Mapping[str, Any]) -> None:
    """Raises `UserError` unless the terms' latent models share one latent space and one noise schedule."""
    first, *others = (model for model in models.values() if not is_pixel_model(model))
    for other in others:
        for name in ("latent_channels", "factor", "scaling_factor"):
            ours, theirs = getattr(first.vae.config, name), getattr(other.vae.config, name)
            if ours != theirs:
                raise UserError(
                    f"{first.source} and {other.source} do not share a latent space: "
                    f"the vae's {name} is {ours} in the one and {theirs} in the other"
                )
        # The image model decides where steps lie and how they end, but all must mean the same noise by a timestep.
        if not np.array_equal(first.schedule.alphas_cumprod(), other.schedule.alphas_cumprod()):
            raise UserError(f"{first.source} and {other.source} were trained on different noise schedules")


def check_canvas(settings: SampleSettings, models: Mapping[str, Any]) -> None:
    """Raises `UserError` unless the numbers of steps and the size of the canvas fit the models."""
    model = next(model for model in models.values() if not is_pixel_model(model))
    for run in denoising_runs(settings):
        model.schedule.timesteps(run.num_steps)
    factor = model.vae.config.factor
    # A view that rearranges halves of the latent needs them to be equal.
    halves = 2 if any(term.view == "block_rearrange" for term in settings.terms.values()) else 1
    for key, divisor in (("height", factor), ("width", factor * halves), ("window", factor)):
        if getattr(settings, key) % divisor:
            raise UserError(
                f"{key}={getattr(settings, key)}: must be a multiple of {divisor}, as the vae and the views need it"
            )
    cropped = settings.crop_image * decoding.CROPPED_COLUMNS
    cropped += settings.cutoff_latent * decoding.CROPPED_LATENTS * factor
    if settings.width <= cropped:
        raise UserError(f"width={settings.width}: must be above {cropped}, which crop_image or cutoff_latent drops")
