"""The cache of conversions: each model is converted once, and again only if its content has changed."""

import json
import logging
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from convert import cache as conversion_cache
from convert import conversion, originals
from its_jax.errors import UserError
from its_jax.pretrained import load_model
from tests.helpers import model_folder


def content_key(folder):
    return conversion_cache.content_key(originals.gather("model", folder))


def test_a_model_is_converted_once_wherever_it_lies(vae_only, cache, caplog):
    caplog.set_level(logging.INFO)
    first = load_model(str(vae_only), components=("vae",), dtype=jnp.float32)
    (made,) = (path for path in cache.iterdir() if not path.name.startswith("."))
    assert sum(f"converting {vae_only} into {made}" in r.getMessage() for r in caplog.records) == 1
    caplog.clear()
    again = load_model(str(vae_only), components=("vae",), dtype=jnp.float32)
    moved = vae_only.rename(vae_only.with_name("moved"))
    elsewhere = load_model(str(moved), components=("vae",), dtype=jnp.float32)
    assert not [record for record in caplog.records if "converting" in record.getMessage()]
    assert first.identity == again.identity == elsewhere.identity
    out = conversion.convert(str(moved), cache.parent / "out")
    assert load_model(str(out), components=("vae",), dtype=jnp.float32).identity == first.identity


def test_a_model_with_changed_content_is_converted_again(vae_only):
    first = load_model(str(vae_only), components=("vae",), dtype=jnp.float32)
    path = vae_only / "vae/diffusion_pytorch_model.safetensors"
    model_folder.edit(path, lambda state: state["decoder.conv_in.bias"].add_(1))
    second = load_model(str(vae_only), components=("vae",), dtype=jnp.float32)
    assert first.identity != second.identity and first.hashes["vae"] != second.hashes["vae"]
    before, after = (model.vae.decoder.conv_in.bias[...] for model in (first, second))
    np.testing.assert_array_equal(after, before + 1)


def test_files_that_do_not_matter_do_not_change_the_key(source):
    key = content_key(source)
    (source / "README.md").write_text("does not matter")
    assert content_key(source) == key


def test_a_file_is_hashed_again_only_after_it_has_changed(source, cache):
    key, file, digests = content_key(source), source / "vae/config.json", cache.parent / "digests.json"
    known = json.loads(digests.read_text())
    assert len(known) > 8
    known[str(file.resolve())][-1] = "another digest"
    digests.write_text(json.dumps(known))
    assert content_key(source) != key  # the file is not read
    os.utime(file, ns=(1, 1))
    assert content_key(source) == key


def test_a_copy_that_keeps_the_time_of_its_last_change_is_hashed_again(source):
    key, file = content_key(source), source / "vae/config.json"
    before = file.stat()
    file.write_text(file.read_text().replace("8", "9"))  # the same number of bytes
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and content_key(source) != key


def test_a_changed_shard_changes_the_key(source, twins):
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    twins["unet"].save_pretrained(source / "unet", max_shard_size="40KB")
    key = content_key(source)
    shard = next((source / "unet").glob("*-00002-of-*"))
    model_folder.edit(shard, lambda state: next(iter(state.values())).add_(1))
    assert content_key(source) != key


@pytest.mark.skipif(not pathlib.Path("/proc/self/mem").exists(), reason="needs a file that cannot be read")
def test_a_file_that_cannot_be_read_is_named(source):
    file = source / "tokenizer/merges.txt"
    file.unlink()
    file.symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=f"^{file}: cannot read: Input/output error"):
        load_model(str(source), dtype=jnp.float32)


def test_a_cache_folder_that_cannot_be_written_is_named(vae_only, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ITS_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="/file"):
        load_model(str(vae_only), components=("vae",), dtype=jnp.float32)
