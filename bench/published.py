"""The published configs of the full-size models, as the tests keep them."""

import json
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[1] / "tests" / "data" / "configs"
# Term -> part -> name of its config; where Auffusion's is Stable Diffusion 1.5's, there is one for both.
PARTS = {
    "image": {"text_encoder": "sd15.text_encoder", "unet": "sd15.unet", "vae": "sd15.vae"},
    "audio": {"text_encoder": "sd15.text_encoder", "unet": "auffusion.unet", "vae": "sd15.vae"}
    | {"vocoder": "auffusion.vocoder"},
}
SCHEDULER = "sd15.scheduler"


def config(name: str) -> dict[str, Any]:
    return json.loads((CONFIGS / f"{name}.json").read_text())
