"""The constructors of a pipeline: what they read, what they leave to defaults, and what they refuse."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import its_jax
from its_jax import Pipeline, UserError
from its_jax.pipeline.requests import default_settings
from its_jax.settings.ids import sample_id
from its_jax.settings.parse import read_settings

ONE_DEVICE = jax.local_devices()[:1]  # With all eight, every batch would be filled up to eight samples.

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_settings_may_leave_out_all_but_models_and_prompts(models, small):
    terms = {term: {"model": models[f"{term}.model"], "prompt": "a cat"} for term in ("image", "audio")}
    sizes = {name: small()[name] for name in ("height", "width")}
    pipe = Pipeline.from_settings(terms | sizes, devices=ONE_DEVICE)
    assert repr(pipe) == f"Pipeline(image={models['image.model']!r}, audio={models['audio.model']!r}, float32)"
    (sample,) = pipe(num_steps=2)
    assert (sample.seed, sample.settings.solver, sample.settings.num_steps) == (0, "ddim", 2)
    with pytest.raises(UserError, match=r"there is no setting audio\.wieght; did you mean audio\.weight\?"):
        pipe(audio={"wieght": 0.5})


def test_a_pipeline_comes_from_a_config_file_or_its_contents(small, tmp_path):
    settings = small().to_dict()
    file = tmp_path / "mine.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config(seed='0'):\n"
        f"    return ConfigDict({{**{settings!r}, 'seed': int(seed)}})\n"
    )
    assert Pipeline.from_config(str(file), devices=ONE_DEVICE)(num_steps=2)[0].seed == 0
    assert Pipeline.from_config(f"{file}:7", devices=ONE_DEVICE)(num_steps=2)[0].seed == 7
    assert Pipeline.from_config(small(), devices=ONE_DEVICE)(num_steps=2)[0].settings.num_steps == 2


@pytest.mark.parametrize("name", ["none.py", "broken.py", "dict.py"])
def test_a_config_that_cannot_be_read_is_refused_in_one_line(name, tmp_path):
    (tmp_path / "broken.py").write_text("def get_config():\n    return x\n")
    (tmp_path / "dict.py").write_text("def get_config():\n    return {'seed': 1}\n")
    with pytest.raises(UserError, match=name):
        Pipeline.from_config(str(tmp_path / name))


@pytest.mark.parametrize("dtype", ["float32", jnp.float32, np.dtype("float32")])
def test_from_pretrained_takes_models_and_the_defaults_of_their_kind(dtype, models):
    sizes = {"width": 48, "window": 48, "num_steps": 2, "crop_image": False}
    sources = {term: models[f"{term}.model"] for term in ("image", "audio")}
    pipe = Pipeline.from_pretrained(**sources, dtype=dtype, **sizes)
    (sample,) = pipe(image="a cat", audio="rain")
    assert sample.settings.terms["image"].model == sources["image"]
    assert sample.settings.dtype == "float32" and sample.settings.solver == "ddim"  # of configs/sd15_auffusion.py
    assert sample.settings.height == 12  # of the vocoder


@pytest.mark.parametrize(("mel_bands", "solver", "width"), [(128, "dpmpp_2m", 512), (256, "ddim", 1024)])
def test_the_height_of_a_vocoders_spectrograms_tells_the_default_config(mel_bands, solver, width):
    settings = default_settings(mel_bands)  # of configs/default.py and configs/sd15_auffusion.py
    assert (settings["height"], settings["solver"], settings["width"]) == (mel_bands, solver, width)


@pytest.mark.slow
def test_from_pretrained_loads_the_embedded_models_by_name_or_folder():
    folders = {term: Path(its_jax.__file__).parent / "tiny" / "weights" / term for term in ("image", "audio")}
    for models in (folders, {"image": "tiny/image", "audio": "tiny/audio"}):
        (sample,) = Pipeline.from_pretrained(**models)(num_steps=2)
        assert sample.image.shape == (128, 512, 3) and sample.audio.shape == (81920,)


def test_importing_the_package_imports_no_jax():
    program = "import its_jax, sys; print('jax' in sys.modules, its_jax.Pipeline.__name__, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "Pipeline", "True"]
    assert re.match(r"\d+\.\d+", its_jax.__version__)


def test_settings_can_be_a_config_dict_and_files_can_be_paths(small, tmp_path):
    config = small()
    pipe = Pipeline.from_settings(config, devices=ONE_DEVICE)
    (sample,) = pipe(image=config.image, seed=3)
    same = sample_id(read_settings(small(seed=3, num_samples=1).to_dict())[0][0])
    assert sample.id == same and repr(sample) == f"Sample({same!r}, 12 x 48 pixels, 0.06 s)"
    path = tmp_path / "white.png"
    Image.new("L", (48, 12), 255).save(path)
    assert pipe(seed=3, init_image=path)[0].settings.init_image == str(path)


def test_the_package_lists_its_public_names():
    assert {"Pipeline", "Sample", "UserError", "Cancelled", "__version__"} <= set(dir(its_jax))
