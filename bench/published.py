"""The published configs of the full-size models, which the tests keep."""

from typing import Any

from bench.command import ROOT
from its_jax.storage.files import read_json

CONFIGS = ROOT / "tests" / "data" / "configs"
# Term -> component -> name of its config. Stable Diffusion 1.5 and Auffusion share those that are the same.
COMPONENTS = {
    "image": {"text_encoder": "sd15.text_encoder", "unet": "sd15.unet", "vae": "sd15.vae"},
    "audio": {"text_encoder": "sd15.text_encoder", "unet": "auffusion.unet", "vae": "sd15.vae"}
    | {"vocoder": "auffusion.vocoder"},
}
SCHEDULER = "sd15.scheduler"


def read_config(name: str) -> dict[str, Any]:
    """Reads the config.json of a published component."""
    return read_json(CONFIGS / f"{name}.json")
