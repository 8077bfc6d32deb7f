"""Small random CLIP and CLAP models in transformers' layout, as it saves them, and their modules."""

import json

import transformers
from transformers.models.clap.feature_extraction_clap import ClapFeatureExtractor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.helpers.model_folder import save_tokenizer
from tests.helpers.random_weights import randomize

TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
VISION = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=24,
              patch_size=8)  # fmt: skip
SWIN = dict(spec_size=64, num_mel_bins=16, patch_size=4, patch_stride=[4, 4], window_size=4, depths=[2, 1],
            num_attention_heads=[2, 4], patch_embeds_hidden_size=8, hidden_size=16)  # fmt: skip
# 2 seconds, 201 frames of the 256 that the model could take.
SOUNDS = dict(feature_size=16, sampling_rate=48000, hop_length=480, max_length_s=2, fft_window_size=1024,
              frequency_min=50, frequency_max=14000, truncation="rand_trunc", padding="repeatpad")  # fmt: skip


def build_clip(folder):
    """Writes the model and returns its module; texts end with the token of the highest id, as openai's do."""
    tokens = save_tokenizer(folder)
    vocab = json.loads((folder / "vocab.json").read_text())
    end = vocab["<|endoftext|>"], tokens - 1
    names = {id: token for token, id in vocab.items()}
    vocab[names[end[1]]], vocab["<|endoftext|>"] = end
    (folder / "vocab.json").write_text(json.dumps(vocab))
    text = TEXT | dict(vocab_size=tokens, max_position_embeddings=77, eos_token_id=2, bos_token_id=0, pad_token_id=1)
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=10)
    twin = randomize(transformers.CLIPModel(config))
    twin.text_projection.weight.data *= -1  # by chance all cosines were below 0, where scores are equal
    twin.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=24).save_pretrained(folder)
    return twin


def build_clap(folder):
    """Writes the model and returns its module."""
    folder.mkdir()
    tokens = save_roberta(folder)
    text = TEXT | dict(vocab_size=tokens, max_position_embeddings=66, projection_dim=12)
    config = transformers.ClapConfig(text_config=text, audio_config=SWIN | {"projection_dim": 12}, projection_dim=12)
    twin = randomize(transformers.ClapModel(config))
    for values in twin.text_projection.linear2.parameters():
        values.data *= -1  # as above
    twin.save_pretrained(folder)
    ClapFeatureExtractor(**SOUNDS).save_pretrained(folder)
    return twin


def save_roberta(folder):
    """vocab.json and merges.txt of a byte-pair tokenizer that knows letters, and a word whole."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", *letters, "Ġb", "el", "Ġbel", "Ġbell", "<mask>"]
    merges = ["#version: 0.2", "Ġ b", "e l", "Ġb el", "Ġbel l"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(merges) + "\n")
    config = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)
