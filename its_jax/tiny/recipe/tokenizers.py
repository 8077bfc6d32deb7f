"""Tokenizers of the embedded models: each word of a caption is one token, and other words are spelled by letters."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from its_jax.storage.files import write_json
from its_jax.tiny.data import colors, pictures, sounds

TEXT_LENGTH = 16  # tokens of CLIP's and RoBERTa's tokenizers, start and end included
T5_LENGTH = 77  # tokens, as in DeepFloyd IF
START, END = "<|startoftext|>", "<|endoftext|>"

# Kind of model -> the phrases and the templates of its captions.
_CAPTIONS = {
    "image": (pictures.SUBJECTS, pictures.TEMPLATES),
    "audio": (sounds.SOUNDS, sounds.TEMPLATES),
    "color": (pictures.SUBJECTS, colors.TEMPLATES),
}


def vocabulary(kind: str) -> list[str]:
    """Returns the sorted words (and the comma) that captions of 'image', 'audio' or 'color' consist of."""
    classes, templates = _CAPTIONS[kind]
    phrases = [phrase for phrases in classes.values() for phrase in phrases]
    return sorted(set(re.findall(r"[a-z]+|,", " ".join([*phrases, *templates]))))


def write_clip_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Writes a CLIP tokenizer whose merges build each of `words` whole.

    Returns:
      the number of tokens. The last two are start and end.
    """
    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters]
    merges = {}
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            # Merging from the end keeps the pieces of one word unlike those of others.
            merges[parts[-2], parts[-1]] = parts[-2] + parts[-1]
            parts = [*parts[:-2], parts[-2] + parts[-1]]
    tokens = list(dict.fromkeys([*tokens, *merges.values(), START, END]))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TEXT_LENGTH, "bos_token": START}
    config |= {"eos_token": END, "unk_token": END, "pad_token": END}
    return _write(folder, tokens, merges, config)


def write_roberta_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Writes a RoBERTa tokenizer whose merges build each of `words` whole, and returns the number of tokens."""
    letters = bytes_to_unicode()
    merges = {}
    for word in words:
        piece = letters[ord(" ")]
        for letter in word:
            # Merging from the leading space keeps the pieces of a word apart from those inside other words.
            merges[piece, letter] = piece = piece + letter
    # RoBERTa fixes the ids of the special tokens.
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *letters.values(), *merges.values(), "<mask>"]
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": TEXT_LENGTH}
    config |= {"add_prefix_space": True}  # The first word is tokenized like any other.
    return _write(folder, tokens, merges, config)


def _write(folder: Path, tokens: Sequence[str], merges: Iterable[tuple[str, str]], config: dict[str, Any]) -> int:
    """Writes the files of a byte-pair tokenizer and returns the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "vocab.json", {token: i for i, token in enumerate(tokens)})
    write_json(folder / "tokenizer_config.json", config)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return len(tokens)


def write_t5_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Writes a T5 tokenizer that has each of `words` whole, and returns the number of tokens."""
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters, *(f"▁{word}" for word in words)]
    # The tokenizer picks the segmentation with the highest sum of scores: a word costs less than any of its letters.
    scores = [0.0 if i < 3 else -1.0 if len(piece) > 1 else -3.0 for i, piece in enumerate(pieces)]
    tokenizer = T5Tokenizer(vocab=list(zip(pieces, scores, strict=True)), extra_ids=0, model_max_length=T5_LENGTH)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)
