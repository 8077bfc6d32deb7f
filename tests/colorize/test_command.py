"""The command `python -m its_jax.colorize`."""

import pytest

from its_jax.colorize import __main__
from its_jax.storage import samples
from tests.colorize.conftest import CONFIG
from tests.helpers.colorization import SMALL, colored_images
from tests.helpers.command import run_main

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture
def command(capsys, pixel_models, latent_model):
    """Runs the command in this process; returns its exit status, and the lines on stderr."""

    def call(workdir, *flags, **changes):
        capsys.readouterr()
        settings = SMALL | pixel_models | {"latent_model": latent_model, "stage_2": ""} | changes
        flags = [*flags, *(f"--config.colorize.{name}={value}" for name, value in settings.items())]
        status = run_main(__main__.main, "colorize", f"--workdir={workdir}", *flags, config=CONFIG)
        lines = capsys.readouterr().err.splitlines()
        return status, [line for line in lines if line and "colorize:" not in line]

    return call


def test_selected_samples_are_colorized(command, workdir):
    first, second = samples.open_samples(workdir)
    assert command(workdir, f"--select={first}", trials=1) == (0, [])
    (workdir / "starred.txt").write_text(f"{second}\n")
    assert command(workdir, "--select=starred", trials=1, prompt="a bell") == (0, [])
    assert colored_images(workdir).keys() == {(first, "color_00"), (second, "color_00")}
    assert samples.open_samples(workdir)[second].coloring_record("color_00")["colorize"]["prompt"] == "a bell"


def test_prompts_that_are_too_long_are_reported(command, workdir):
    status, lines = command(workdir, prompt="cat " * 80, trials=1)
    assert status == 0 and len(lines) == 1
    assert "is longer than 76 tokens: 'cat cat cat cat' is cut off" in lines[0]


@pytest.mark.parametrize(
    "flags, changes, message",
    [
        ([], {"method": "latents"}, "colorize.method='latents' is not known here; choose one of factorized, latent"),
        ([], {"guidance_scale": "nan"}, "colorize.guidance_scale=nan: must be a finite number"),
        ([], {"promt": "a"}, "there is no setting colorize.promt; did you mean colorize.prompt?"),
        (["--workdir=nowhere/nowhere"], {}, "nowhere/nowhere: no such folder"),
        (["--select=nothing"], {}, "has no finished sample nothing"),
    ],
)
def test_wrong_input_is_reported_in_one_line(command, workdir, flags, changes, message):
    status, lines = command(workdir, *flags, **changes)
    assert status == 2 and len(lines) == 1
    assert lines[0].startswith("error: ") and message in lines[0]
    assert not colored_images(workdir)
