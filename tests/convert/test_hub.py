"""Models on the Hugging Face hub: the right files are downloaded, and errors are one line."""

import subprocess
import sys
import types

import huggingface_hub
import pytest

from convert import conversion, originals, sources
from convert.hub import file_names
from its_jax.errors import UserError
from tests.helpers.conversions import metadata


class FakeHub:
    """A replacement of the module `huggingface_hub` with one repository, or with an error for each question."""

    def __init__(self, files=(), folder=".", error=None):
        self.files, self.folder, self.error = list(files), folder, error
        self.requested = []

    def list_repo_files(self, repository):
        if self.error:
            raise self.error
        return self.files

    def snapshot_download(self, repository, *, allow_patterns=None, local_files_only=False):
        if local_files_only and self.folder is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not in the cache")
        self.requested = allow_patterns
        return str(self.folder)


def test_only_the_files_of_the_model_are_downloaded(vae_only, tmp_path):
    hub = FakeHub([*file_names(vae_only), "vae/diffusion_pytorch_model.bin", "v1-5-pruned.ckpt"], vae_only)
    folder = sources.find("someone/model", hub=hub)
    assert sorted(hub.requested) == file_names(vae_only)
    out = conversion.write(originals.gather("someone/model", folder), tmp_path / "out")
    assert metadata(out)["source"] == "someone/model"


def test_the_text_encoder_of_ifs_second_stage_is_not_downloaded():
    hub = FakeHub(["model_index.json", "scheduler/scheduler_config.json", "tokenizer/spiece.model"])
    hub.files += [f"{component}/config.json" for component in ("text_encoder", "unet")]
    hub.files += ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    sources.find("someone/stage-1", hub=hub)
    assert sorted(hub.requested) == sorted(hub.files)
    hub.files.append("image_noising_scheduler/scheduler_config.json")
    sources.find("someone/stage-2", hub=hub)
    assert sorted(hub.requested) == sorted(
        file for file in hub.files if not file.startswith(("text_encoder/", "tokenizer/"))
    )


def test_without_a_network_an_earlier_download_is_used_with_one_warning(vae_only, caplog):
    hub = FakeHub(folder=vae_only, error=ConnectionError("no network"))
    assert sources.find("someone/model", hub=hub) == sources.find("someone/model", hub=hub) == vae_only
    (record,) = caplog.records
    message = "someone/model: using an earlier download, because the hub does not answer (no network)"
    assert record.getMessage() == message


def test_an_incomplete_earlier_download_is_not_used(vae_only):
    (vae_only / "vae" / "config.json").unlink()
    hub = FakeHub(folder=vae_only, error=ConnectionError("no network"))
    with pytest.raises(UserError, match="someone/part: neither a folder nor available on .* hub .no network"):
        sources.find("someone/part", hub=hub)


def test_the_error_for_a_gated_model_asks_for_a_token():
    response = types.SimpleNamespace(headers={}, request=None, status_code=403, text="")
    error = huggingface_hub.errors.GatedRepoError("403 Client Error.\nAccess is restricted", response=response)
    with pytest.raises(UserError, match="someone/gated: .*accept its license.* give a token as HF_TOKEN"):
        sources.find("someone/gated", hub=FakeHub(folder=None, error=error))


def test_an_unknown_model_is_an_error_of_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = "^someone/unknown-model: neither a folder nor available on the Hugging Face hub"
    with pytest.raises(UserError, match=message) as error:
        sources.find("someone/unknown-model")
    assert "\n" not in str(error.value)


def test_messages_of_the_hub_below_warnings_are_silenced():
    """Runs in a process of its own, because the library configures its logger when it is imported."""
    program = """
import logging, sys
from its_jax.runtime import cli
logging.getLogger().setLevel(logging.INFO)
cli.silence_libraries()
import huggingface_hub.utils
huggingface_hub.utils.get_session()
clients = [name for name in ("httpx", "httpx2") if name in sys.modules]
infos = [logging.getLogger(name).isEnabledFor(logging.INFO) for name in clients]
print(bool(clients), any(infos), logging.getLogger("huggingface_hub.utils._http").isEnabledFor(logging.WARNING))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
