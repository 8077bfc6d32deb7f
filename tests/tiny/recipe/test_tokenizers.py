"""The tokenizers: every word of a caption is one token."""

import numpy as np
import pytest
import transformers

from its_jax.pipeline import prompts
from its_jax.tiny.data import colors, items, pictures, sounds
from its_jax.tiny.recipe import latent, pixel, tokenizers


def captions(source, classes):
    """Returns 20 captions of each class."""
    rng = np.random.default_rng(0)
    return [source.caption(name, rng) for name in classes for _ in range(20)]


@pytest.mark.parametrize("kind", latent.KINDS)
def test_every_caption_consists_of_whole_words_of_clip(kind, tmp_path):
    words = tokenizers.vocabulary(kind)
    size = tokenizers.write_clip_tokenizer(tmp_path, words)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words)
    assert len(tokenizer.tokenize("xylophone")) > 1
    for caption in captions(*((pictures, items.SUBJECTS) if kind == "image" else (sounds, items.SOUNDS))):
        pieces = tokenizer.tokenize(caption)
        assert len(pieces) <= tokenizers.TEXT_LENGTH - 2
        assert {piece.removesuffix("</w>") for piece in pieces} <= set(words)


def test_every_caption_consists_of_whole_words_of_roberta(tmp_path):
    size = tokenizers.write_roberta_tokenizer(tmp_path, tokenizers.vocabulary("audio"))
    tokenizer = transformers.RobertaTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size and tokenizer.pad_token_id == 1
    for caption in captions(sounds, items.SOUNDS):
        assert [piece.removeprefix("Ġ") for piece in tokenizer.tokenize(caption)] == caption.split()
        assert len(tokenizer(caption).input_ids) <= tokenizers.TEXT_LENGTH
    assert len(tokenizer.tokenize("xylophone")) > 1


def test_every_caption_consists_of_whole_words_of_t5():
    tokenizer = pixel.tokenizer()
    words = {f"▁{word}" for word in tokenizers.vocabulary("color")}
    for caption in captions(colors, items.SUBJECTS):
        assert set(tokenizer.tokenize(caption)) <= words


def test_t5_spells_unknown_words_by_letters():
    tokenizer = pixel.tokenizer()
    (ids,) = prompts.tokenize_for_pixels(tokenizer, ["A Zebra "])
    assert len(ids) == tokenizers.T5_LENGTH and tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a zebra"
