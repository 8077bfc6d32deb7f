"""`--help` of a command lists its flags, and the settings of its config with type, value and meaning."""

import re

import pytest

from its_jax.colorize.settings import ColorSettings
from its_jax.runtime import config_files
from its_jax.settings.fields import field_docs
from its_jax.settings.schema import setting_docs
from tests.runtime.test_console import its_jax, run


def page(name, *arguments):
    status, text, errors = its_jax(name, "--help", *arguments)
    assert status == 0 and not errors
    assert max(map(len, text.splitlines())) <= 100
    return text


def described(text):
    """Returns the meaning of each flag and setting by (name, what is in brackets), with single spaces."""
    found, headings = {}, []
    for line in [*text.splitlines(), ""]:
        if line.startswith("  --"):
            headings = [*(h for h in headings if h not in found), line.strip()]
        elif line.startswith("      ") and headings:
            for heading in headings:
                found[heading] = f"{found.get(heading, '')} {line.strip()}".strip()
        else:
            headings = []
    return {re.match(r"--([\w.]+)", heading)[1]: (heading, meaning) for heading, meaning in found.items()}


def test_sample_describes_its_flags_and_all_settings():
    found = described(page("sample"))
    assert found["workdir"] == (
        "--workdir (string, default 'out')",
        "Folder for the samples; created if it does not exist.",
    )
    assert "default 'default'" in found["config"][0] and "regenerates that sample" in found["from"][1]
    config = config_files.flatten(config_files.load_config("default").to_dict())
    docs = setting_docs()
    for name, value in config.items():
        heading, meaning = found[f"config.{name}"]
        assert heading == f"--config.{name} ({type(value).__name__}, default {value!r})"
        words = re.findall(r"\w+", docs[name])  # without the marks of links and code
        assert re.findall(r"\w+", meaning) == words, name


def test_the_page_is_that_of_the_given_config():
    text = page("sample", "--config=views:upside_down")
    assert "--config.upside_down.view (str, default 'rotate_180')" in text
    text = page("sample", "--config", "sd15_auffusion:tiger")
    assert "default 'tiger growling')" in text and "default 'sd15_auffusion:tiger')" in text


def test_colorize_and_sweep_describe_their_own_settings():
    text = " ".join(page("colorize").split())
    assert all(meaning.replace("`", "") in text for meaning in field_docs(ColorSettings).values())
    found = described(page("sweep"))
    assert found["config.layout"][1] == found["layout"][1] != ""
    assert found["config.grid.seed"][1].startswith("the axis of the grid over seed: seed of the first sample")


def test_required_flags_and_choices_are_marked():
    assert "--source (string, required)" in page("convert")
    text = page("sweep")
    assert "--engine (here or ray, default 'here')\n      What generates" in text and "repeat this option" not in text


@pytest.mark.parametrize("flag", ["-h", "-help", "--helpshort", "--helpfull"])
def test_other_spellings_of_help_end_with_status_0(flag):
    status, text, _ = run("-m", "its_jax.top", flag)
    assert status == 0 and text.startswith("usage: python -m its_jax.top [--FLAG=VALUE ...] [WORKDIR]")


def test_help_with_a_wrong_config_is_one_line():
    status, text, errors = its_jax("sample", "--help", "--config=nowhere")
    assert status == 2 and not text and len(errors.splitlines()) == 1 and "nowhere" in errors
