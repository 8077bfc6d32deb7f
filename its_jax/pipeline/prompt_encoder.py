"""Encodes the prompts of a batch, each prompt once, and keeps them for later batches."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from its_jax.checkpoints.model import Model
from its_jax.pipeline import prompts, t5_embeddings
from its_jax.pipeline.placement import DataParallel
from its_jax.settings.schema import SampleSettings
from its_jax.settings.steps import is_active, term_prompts

# Memory for encoded prompts on a device, so that they serve later batches too. At full size one takes 4 MB in bfloat16.
DEVICE_BYTES = 512 * 2**20
HOST_BYTES = 8 * 2**30  # and on the host, for those that had to make room on the device

Key = tuple[str, str | None]  # source of the model, and prompt; None stands for a prompt that is not needed


class PromptEncoder:
    """Encodes prompts for the models of all terms.

    Args of the constructor:
      models: by term; terms that use one source share their model.
      pixel_models: by source, the pixel models among them before their weights are loaded. Their prompts are encoded by
        a T5 that is loaded when it is needed, see `t5_embeddings`.

    Attributes:
      shapes: by source, the shapes of an encoded prompt, leaves `[1, ...]`.
      programs: by source, the compiled program that encodes a prompt.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        placement: DataParallel,
        pixel_models: Mapping[str, Model],
        device_bytes: int = DEVICE_BYTES,
        host_bytes: int = HOST_BYTES,
    ):
        self._models, self._placement, self._pixel_models = models, placement, pixel_models
        self.device_bytes, self._host_bytes = device_bytes, host_bytes
        self._on_device: dict[Key, Any] = {}
        self._on_host: dict[Key, Any] = {}
        lowered = {model.source: self._lower(model) for model in models.values()}
        self.programs = {source: stage.compile() for source, stage in lowered.items()}
        self.shapes = {
            source: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), stage.out_info)
            for source, stage in lowered.items()
        }

    def encode(self, batch: Sequence[SampleSettings]) -> dict[str, list[Any]]:
        """Encodes the prompts of a batch.

        Returns:
          for each term, its texts in the order of samples, negative before positive, on the term's devices.
        """
        requested = {
            name: [prompt for settings in batch for prompt in self.prompts(settings, name)] for name in self._models
        }
        needed = {(model.source, prompt): model for name, model in self._models.items() for prompt in requested[name]}
        self._make_room(needed)
        for key, model in needed.items():
            # Moving a text to the end keeps the dictionary in the order of last use.
            text = self._on_device.pop(key, None) or self._from_host(key)
            self._on_device[key] = text or self._encode_prompt(model, key[1])
        texts = {}
        for i, (name, model) in enumerate(self._models.items()):
            found = [self._on_device[model.source, prompt] for prompt in requested[name]]
            # Terms that share a model may lie on different devices.
            texts[name] = jax.device_put(found, self._placement.prompt_sharding(i))
        return texts

    def forget(self) -> None:
        """Forgets all encoded prompts."""
        self._on_device.clear()
        self._on_host.clear()

    def prompts(self, settings: SampleSettings, term: str) -> list[str | None]:
        """Returns the prompts of a term that are encoded; None in place of one that the term does not need."""
        found = self._placement.prompts(term_prompts(settings, term))
        return [*found] if is_active(settings, term) else [None] * len(found)

    def sharding(self, source: str) -> jax.sharding.Sharding:
        """Returns the sharding of a model's text encoder and UNet."""
        terms = [i for i, model in enumerate(self._models.values()) if model.source == source]
        return self._placement.model_sharding(terms)

    def _lower(self, model):
        sharding = self.sharding(model.source)
        length = model.tokenizer.model_max_length
        if model.source in self._pixel_models:
            shape = 1, length, model.unet.config.encoder_hid_dim
            return prompts.project_text.lower(model.unet, self._placement.abstract(shape, sharding=sharding))
        ids = self._placement.abstract((1, length), jnp.int32, sharding)
        return prompts.prepare_texts.lower(model.text_encoder, model.unet, ids)

    def _encode_prompt(self, model, prompt):
        """Encodes one prompt, leaves `[1, ...]`; zeros in place of None."""
        source, sharding = model.source, self.sharding(model.source)
        if prompt is None:
            blank = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), self.shapes[source])
            return jax.device_put(blank, sharding)
        if source in self._pixel_models:
            text = t5_embeddings.embed(self._pixel_models[source], [prompt])[prompt][None]
            return self.programs[source](model.unet, jax.device_put(text, sharding))
        ids = jax.device_put(prompts.tokenize(model.tokenizer, [prompt]), sharding)
        return self.programs[source](model.text_encoder, model.unet, ids)

    def _make_room(self, needed):
        """Moves the least recently used texts to the host until those of the batch fit on the device."""
        size = max(map(_count_bytes, self.shapes.values()))
        new = sum(key not in self._on_device for key in needed)
        for key in [key for key in self._on_device if key not in needed]:
            if (len(self._on_device) + new) * size <= self.device_bytes:
                break
            self._on_host[key] = jax.device_get(self._on_device.pop(key))
        while len(self._on_host) * size > self._host_bytes:
            del self._on_host[next(iter(self._on_host))]

    def _from_host(self, key):
        text = self._on_host.pop(key, None)
        return text and jax.device_put(text, self.sharding(key[0]))


class TextStacker:
    """Programs that stack the encoded prompts of a batch, one per term.

    Attributes:
      shapes: by term, the shapes of its texts, leaves `[b, prompts, ...]`.
      programs: by term, the compiled program that stacks its texts.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        models: Mapping[str, Model],
        placement: DataParallel,
        settings: SampleSettings,
        batch_size: int,
    ):
        self.programs, self.shapes = {}, {}
        for i, (name, model) in enumerate(models.items()):
            text = placement.abstract_like(encoder.shapes[model.source], placement.prompt_sharding(i))
            join = placement.jit_join(functools.partial(prompts.stack_texts, batch_size), i)
            lowered = join.lower([text] * (batch_size * len(encoder.prompts(settings, name))))
            self.programs[name] = lowered.compile()
            self.shapes[name] = placement.abstract_like(lowered.out_info, placement.texts_sharding(i))

    def __call__(self, texts: Mapping[str, list[Any]]) -> dict[str, Any]:
        """Stacks the result of `PromptEncoder.encode`, leaves `[b, prompts, ...]` for each term."""
        return {name: self.programs[name](found) for name, found in texts.items()}

    @property
    def bytes(self) -> int:
        """Returns the device memory that texts take before and after they are stacked, if all of them differ."""
        analyses: list[Any] = [program.memory_analysis() for program in self.programs.values()]
        return sum(found.argument_size_in_bytes + found.output_size_in_bytes for found in analyses)


def _count_bytes(tree):
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
