"""`python -m convert --source=MODEL --out=FOLDER`: see `convert.conversion.convert`."""

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
_CHECK = flags.DEFINE_bool("check", False, "Compare each part's results with PyTorch's, for which diffusers is needed.")


def main():
    from convert import conversion

    if _CHECK.value:
        from convert import check  # needs PyTorch, as conversion of safetensors does not: told before the work
    more = {"loras": _LORA.value, "config_from": _CONFIG_FROM.value}
    out = conversion.convert(_SOURCE.value, _OUT.value, **more)
    logging.info("converted %s into %s", _SOURCE.value, out)
    if _CHECK.value:
        check.check(_SOURCE.value, out, **more)


if __name__ == "__main__":
    cli.run(main)
