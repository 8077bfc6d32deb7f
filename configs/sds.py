"""A baseline: one image, optimized under both models by score distillation (SDS). Nothing is downloaded.

    python -m its_jax.sample --config=configs/sds.py --workdir=out
    python -m its_jax.sample --config=configs/sds.py:tiger --workdir=out

One sample of the embedded models takes six minutes on 2 busy CPU cores, about 1.5 s per iteration. An interrupted run
resumes where it stopped, and WORKDIR/.progress shows the current images. With a published example of
configs/sd15_auffusion.py as argument, it uses Auffusion and, for the image, the first stage of DeepFloyd IF, with the
settings of the authors: 40,000 iterations per sample. IF's license must be accepted on the hub first. Without it,
--config.image.model=stable-diffusion-v1-5/stable-diffusion-v1-5 guides the image in latent space.
"""

from its_jax.runtime.config_files import shipped

AUTHORS = shipped("sd15_auffusion")
ARGUMENTS = tuple(AUTHORS["EXAMPLES"])


def get_config(example=None):
    config = shipped("default")["get_config"]() if example is None else AUTHORS["get_config"](example)
    config.method = "sds"
    config.noise = "jax"
    config.audio.guidance_scale = 10.0
    if example is None:
        config.num_samples = 1
        config.num_steps = 250  # iterations
        config.learning_rate = 3e-3
        config.audio.weight = 0.6  # with 1 and 0.4 no tree is visible
        config.image.weight = 1.0
        config.image.guidance_scale = 10.0
        config.image.start_step = 0
    else:
        config.image.model = "DeepFloyd/IF-I-M-v1.0"
        config.num_steps = 40_000
        config.learning_rate = 1e-4
        config.audio.weight = 1.0
        config.image.weight = 0.4
        config.image.guidance_scale = 80.0
        config.image.start_step = 5_000
    return config
