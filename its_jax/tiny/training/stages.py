"""How each stage of the embedded models is trained: its data, its loss, and the figures that it is judged by."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from its_jax.audio.mel import image_to_mel
from its_jax.diffusion.schedule import NoiseSchedule
from its_jax.errors import UserError
from its_jax.pipeline.decoding import vocode
from its_jax.runtime import hardware
from its_jax.storage.files import read_json, write_json
from its_jax.tiny import judges, modules, recipe
from its_jax.tiny.data import items as data_items
from its_jax.tiny.data import pictures, sounds
from its_jax.tiny.training import clap, clip, color, vocoder_loss
from its_jax.tiny.training.export import export
from its_jax.tiny.training.loop import fit, save_result

TRAIN_ITEMS, HELD_OUT_ITEMS = 3000, 120
VAE_CROP = 64  # pixels
# Shares of pictures, spectrograms, their maxima and their means in the VAE's batches. Spectrograms are the finer of the
# two: from this share of the steps on, most crops are theirs.
VAE_MIXTURES = (0.35, 0.35, 0.2, 0.1), (0.15, 0.55, 0.2, 0.1)
VAE_SWITCH = 0.6
# Frames: a third of a canvas, enough for the vocoder's reach of some 30 frames on either side.
VOCODER_CROP = 64
CAPTION_DROPOUT = 0.12
# Most steps see half a canvas, at half the cost; the last ones of a cycle whole canvases, as sampling has them.
UNET_CROP, UNET_CROP_SHARE = 32, 0.85
MIN_SNR_GAMMA = 5.0  # arXiv 2303.09556


def train_vae(workdir):
    """The shared VAE, on crops of pictures, of spectrograms, and of mixtures of both, which fused latents resemble."""
    stage, made_of = recipe.STAGES["vae"], _both("train", TRAIN_ITEMS)

    def batches(step):
        rng = data_items.generator("vae", "train", step)
        shares = VAE_MIXTURES[stage.progress(step) >= VAE_SWITCH]
        return np.stack([_mixture(rng, *made_of, VAE_CROP, shares) for _ in range(stage.batch)])

    graph, params = nnx.split(modules.vae())

    def loss(params, crops, key):
        return vae_loss(nnx.merge(graph, params), data_items.to_rgb(crops), key)

    params, seconds = fit(loss, params, batches, stage, workdir / "vae")
    _finish(workdir, "vae", params, seconds, _vae_figures(nnx.merge(graph, params)))


def vae_loss(vae, x, key):
    """Of pictures `[b, h, w, 3]` in [-1, 1]."""
    posterior = vae.encode(x)
    error = vae.decode(posterior.sample(key)) - x
    mean, log_variance = posterior.mean, posterior.log_variance
    divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
    return jnp.mean(jnp.abs(error)) + 5 * jnp.mean(error**2) + 1e-4 * divergence


def _both(split, count):
    return data_items.make_pictures(split, count), data_items.make_spectrograms(split, count)


def _mixture(rng, pictures_, spectrograms, width, shares=VAE_MIXTURES[0]):
    """A random crop `[128, width]` of a picture, of a spectrogram, or of their maximum or mean."""
    a, b = _crop(rng, pictures_, width), _crop(rng, spectrograms, width)
    kind = rng.choice(4, p=shares)
    return (a, b, np.maximum(a, b), a // 2 + b // 2)[kind]


def _crop(rng, items, width):
    start = rng.integers(items.shape[2] - width + 1)
    return items[rng.integers(len(items)), :, start : start + width]


def _vae_figures(vae):
    """PSNR on whole held-out canvases, and the deviation of the latents (whose inverse is the scaling factor)."""
    decode = jax.jit(lambda vae, z: jnp.clip(vae.decode(z).mean(-1) / 2 + 0.5, 0, 1))
    figures, latents = {}, []
    for name, items in zip(("pictures", "spectrograms"), _both("held_out", HELD_OUT_ITEMS), strict=True):
        z = encode(vae, items)
        decoded = np.concatenate([decode(vae, block) for block in np.split(z, len(z) // 12)])
        figures[f"psnr_{name}_db"] = round(data_items.psnr(decoded, items / 255), 2)
        latents.append(z)
    return figures | {"latent_std": float(np.std(np.concatenate(latents)))}


def encode(vae, items, signed=data_items.to_rgb):
    """Means of the posterior, unscaled: uint8 `[n, h, w]` (n a multiple of 12) -> `[n, h/8, w/8, 4]`; `signed` makes of
    items what the VAE takes."""
    means = jax.jit(lambda vae, x: vae.encode(signed(x)).mean)
    return np.concatenate([means(vae, block) for block in np.split(items, len(items) // 12)])


def train_unet(workdir, kind):
    """The UNet and the text encoder of 'image' or of 'audio', together."""
    stage, source = recipe.STAGES[kind], pictures if kind == "image" else sounds
    classes = tuple(pictures.SUBJECTS if kind == "image" else sounds.SOUNDS)
    latents = {
        split: _latents(workdir, kind, split, n) for split, n in (("train", TRAIN_ITEMS), ("held_out", HELD_OUT_ITEMS))
    }
    tokenize = recipe.tokenizer(kind)
    whole = latents["train"].shape[2]

    def batch(rng, items, size, width, dropout):
        chosen, start = rng.integers(len(items), size=size), rng.integers(whole - width + 1, size=size)
        captions = ["" if rng.random() < dropout else source.caption(classes[i % len(classes)], rng) for i in chosen]
        return dict(
            z=np.stack([items[i, :, s : s + width] for i, s in zip(chosen, start, strict=True)]),
            tokens=tokenize(captions),
        )

    def batches(step):
        crop = stage.progress(step) < UNET_CROP_SHARE
        size, width = (stage.batch, UNET_CROP) if crop else (stage.batch // 2, whole)
        return batch(data_items.generator(kind, "train", step), latents["train"], size, width, CAPTION_DROPOUT)

    graph, params = nnx.split(modules.text_and_unet(kind))

    def loss(params, batch, key):
        return unet_loss(nnx.merge(graph, params), batch, key)

    params, seconds = fit(loss, params, batches, stage, workdir / kind)
    error = jax.jit(lambda params, *args: noise_error(nnx.merge(graph, params), *args))
    figures = {}
    for t in (100, 300, 500):
        errors = [
            error(
                params,
                batch(data_items.generator(kind, "held_out", i), latents["held_out"], 12, whole, 0.0),
                jnp.full(12, t),
                jax.random.key(i),
            )
            for i in range(10)
        ]
        figures[f"noise_mse_t{t}"] = round(float(np.mean(errors)), 4)
    _finish(workdir, kind, params, seconds, figures)


def noise_error(models, batch, t, key):
    """Mean squared error of the predicted noise, `[b]`.

    Args:
      models: `text_encoder` and `unet`. batch: latents "z" `[b, h, w, 4]` and "tokens". t: timesteps, `[b]`.
    """
    signal = _alphas_cumprod()[t][:, None, None, None]
    eps = jax.random.normal(key, batch["z"].shape)
    x = jnp.sqrt(signal) * batch["z"] + jnp.sqrt(1 - signal) * eps
    predicted = models.unet(x, t, models.text_encoder(batch["tokens"]))
    return jnp.mean((predicted - eps) ** 2, axis=(1, 2, 3))


def unet_loss(models, batch, key):
    """`noise_error` at timesteps drawn by chance, weighted."""
    for_t, for_noise = jax.random.split(key)
    alphas_cumprod = _alphas_cumprod()
    t = jax.random.randint(for_t, (len(batch["z"]),), 0, len(alphas_cumprod))
    snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
    return jnp.mean(jnp.minimum(1.0, MIN_SNR_GAMMA / snr) * noise_error(models, batch, t, for_noise))


def _alphas_cumprod():
    return jnp.asarray(NoiseSchedule.from_dict(recipe.SCHEDULER).alphas_cumprod(), jnp.float32)


def _latents(workdir, kind, split, count):
    """Scaled latents `[count, 16, 64, 4]` of the data, computed once for a VAE."""
    path, made_with = workdir / f"latents_{kind}_{split}.npy", workdir / "vae.json"
    if not path.exists() or path.stat().st_mtime < made_with.stat().st_mtime:
        make = data_items.make_pictures if kind == "image" else data_items.make_spectrograms
        vae = modules.trained(modules.vae(), workdir / "vae")
        with open(path.with_suffix(".tmp"), "wb") as file:
            np.save(file, encode(vae, make(split, count)) / read_json(workdir / "vae.json")["latent_std"])
        path.with_suffix(".tmp").rename(path)
    return np.load(path)


def train_vocoder(workdir):
    """HiFi-GAN's generator, without the adversary: its output, analysed again, must be the spectrogram it was given."""
    stage, made_of = recipe.STAGES["vocoder"], _both("train", TRAIN_ITEMS // 2)
    graph, params = nnx.split(modules.vocoder())

    def batches(step):
        rng = data_items.generator("vocoder", "train", step)
        return np.stack([_mixture(rng, *made_of, VOCODER_CROP) for _ in range(stage.batch)])

    def loss(params, crops, key):
        generator = nnx.merge(graph, vocoder_loss.centred(params, -1))
        return vocoder_loss.error(generator, image_to_mel(crops / 255.0, recipe.MEL), key)

    params, seconds = fit(
        loss, vocoder_loss.centred(params, 1), batches, stage, workdir / "vocoder", vocoder_loss.rates(params)
    )
    params = vocoder_loss.centred(params, -1)
    generator = nnx.merge(graph, params)
    figures = {}
    for name, items in zip(("pictures", "spectrograms"), _both("held_out", HELD_OUT_ITEMS), strict=True):
        for method in ("hifigan", "griffin_lim"):
            figures[f"{method}_error_{name}"] = _reanalysis_error(generator, items / np.float32(255), method)
    _finish(workdir, "vocoder", params, seconds, figures)


def _reanalysis_error(generator, items, method):
    """Mean absolute difference of spectrograms `[n, h, w]` in [0, 1] (n a multiple of 12) from those of their sound."""
    blocks = np.split(items, len(items) // 12)
    again = [data_items.to_spectrogram(vocode(generator, block, recipe.MEL, method)) for block in blocks]
    return round(float(np.mean(np.abs(np.concatenate(again) - items))), 4)


def train_judges(workdir):
    for kind in ("picture", "sound"):
        judge, figures, seconds = judges.train(kind, workdir)
        _finish(workdir, f"judge_{kind}", nnx.state(judge), seconds, figures)


def train_embedder(workdir, kind):
    """CLIP or CLAP, which tell how near a picture or a sound is to a prompt."""
    _train_alone(workdir, kind, {"clip": clip, "clap": clap}[kind])


def train_color(workdir):
    """The UNet of pixels and its T5, which colour pictures."""
    _train_alone(workdir, "color", color)


def _train_alone(workdir, kind, of):
    params, figures, seconds = of.train(workdir)
    _finish(workdir, kind, params, seconds, figures)


def _finish(workdir, name, params, seconds, figures):
    steps = recipe.STAGES[name.partition("_")[0]].steps
    figures |= {"steps": steps, "seconds": round(seconds), "machine": hardware.describe()}
    save_result(workdir / name, params)
    write_json(workdir / f"{name}.json", figures)
    logging.info("%s: %s", name, figures)


def run(workdir, stage="all"):
    """Runs one stage or all; the stages before must be done. UserError: they are not, or `workdir` cannot be made."""
    stages = {
        "vae": train_vae,
        "image": lambda workdir: train_unet(workdir, "image"),
        "audio": lambda workdir: train_unet(workdir, "audio"),
        "vocoder": train_vocoder,
        "judges": train_judges,
        "clip": lambda workdir: train_embedder(workdir, "clip"),
        "clap": lambda workdir: train_embedder(workdir, "clap"),
        "color": train_color,
        "export": export,
    }
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for name in stages if stage == "all" else [stage]:
            stages[name](workdir)
    except OSError as error:
        raise UserError(
            f"{error.filename or workdir}: {error.strerror or error}; were the stages before run?"
        ) from error
