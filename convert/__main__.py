"""Converts a model into the layout of its_jax: `python -m convert --source=MODEL --out=FOLDER`.

The source is a folder in diffusers' or transformers' layout, a hub id, or a single file of Stable Diffusion 1.x. A run
converts what it needs by itself; this command keeps a conversion in a folder of your choice, and `--check` compares it
with PyTorch.
"""

import logging

from absl import flags

from its_jax.runtime import cli

_SOURCE = flags.DEFINE_string(
    "source",
    None,
    "Model folder in diffusers' layout, a hub id, or a single file of Stable Diffusion 1.x.",
    required=True,
)
_OUT = flags.DEFINE_string("out", None, "Folder to make, or an earlier conversion to replace.", required=True)
_CONFIG_FROM = flags.DEFINE_string(
    "config_from",
    None,
    "Model folder or hub id whose configs and tokenizer go with a single file [Stable Diffusion 1.5].",
)
_LORA = flags.DEFINE_multi_string("lora", [], "LoRA to merge, FILE or FILE@SCALE; may be given several times.")
_CHECK = flags.DEFINE_bool(
    "check", False, "Compare each component's results with PyTorch's, for which diffusers is needed."
)


def main() -> None:
    """Converts a model, and compares the results of its components with PyTorch's if requested."""
    from convert import conversion

    source, out, loras, config_from = _SOURCE.value, _OUT.value, _LORA.value, _CONFIG_FROM.value
    if _CHECK.value:
        from convert import check  # needs PyTorch, which conversion does not; fails before the work if it is missing
    out = conversion.convert(source, out, loras=loras, config_from=config_from)
    logging.info("converted %s into %s", source, out)
    if _CHECK.value:
        check.check(source, out, loras=loras, config_from=config_from)


if __name__ == "__main__":
    cli.run(main)
