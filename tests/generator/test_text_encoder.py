"""CLIP in NumPy: the text embeddings that PyTorch's networks make, a prompt at a time."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from fglfast.base.errors import BadInputError
from fglfast.generator.clip_text import ClipText, erf
from fglfast.generator.families import padded_with
from fglfast.generator.text_encoder import TextEncoder
from fglfast.generator.text_part import load_text_part

PROMPTS = ["a photograph of a bag", "ankle boot, dark plain wide", ""]


def by_torch(folder, ids_NT):
    part = load_text_part(folder)
    with torch.inference_mode():
        return torch.cat([part(row_1T) for row_1T in torch.from_numpy(ids_NT).long().split(1)]).numpy()


@pytest.mark.parametrize("family", ["sd15", "sd21-base", "sdxl", "mini"])
def test_embeddings_are_those_of_the_networks_in_pytorch(family, narrow, random_mini):
    folder = random_mini if family == "mini" else narrow(family)
    encoder = TextEncoder.load(folder)
    ids_NT = encoder.tokenize(PROMPTS)
    found_NLD = encoder.encode(ids_NT)
    assert found_NLD.dtype == np.float32
    np.testing.assert_allclose(found_NLD, by_torch(folder, ids_NT), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])
@pytest.mark.parametrize(
    "prompt", ["<|endoftext|> a photograph", "a <|startoftext|> b <|endoftext|> c", "a photograph", ""]
)
def test_special_words_of_a_prompt_are_read_by_both_encoders_of_xl(prompt, padding, narrow, tmp_path):
    folder = shutil.copytree(narrow("sdxl"), tmp_path / "xl")
    padded_with(CLIPTokenizer.from_pretrained(folder / "tokenizer"), padding).save_pretrained(folder / "tokenizer")
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.inference_mode():
        joined, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    encoder = TextEncoder.load(folder)
    ids_1T = encoder.tokenize([prompt])
    for found in (encoder.encode(ids_1T), by_torch(folder, ids_1T)):
        np.testing.assert_allclose(found[:, :-1], joined.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[:, -1, : pooled.shape[1]], pooled.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_sixteen_bits_are_read(dtype, random_mini, tmp_path):
    folder = shutil.copytree(random_mini, tmp_path / "halves")
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    encoder = TextEncoder.load(folder)
    ids_NT = encoder.tokenize(PROMPTS)
    np.testing.assert_allclose(encoder.encode(ids_NT), by_torch(folder, ids_NT), rtol=0, atol=1e-5)


def test_a_prompt_more_changes_no_bit_of_the_others(random_mini):
    encoder = TextEncoder.load(random_mini)
    prompts = [f"{thing}, {shade}" for thing in ("bag", "t-shirt", "ankle boot") for shade in ("dark", "plain")] * 12
    with_it, without = (encoder.encode(encoder.tokenize(some)) for some in (["bag", *prompts], prompts))
    assert np.array_equal(with_it[1:], without)


def test_the_end_of_a_prompt_in_models_without_a_number_for_it(narrow, tmp_path):
    folder = shutil.copytree(narrow("sdxl") / "text_encoder_2", tmp_path / "text")
    ids_T = np.array([1, 5, 7, 3, 2, 2], dtype=np.int32)
    pooled = []
    for number in (7, 2):  # the third id is the end, by its number or as the largest
        config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": number}
        (folder / "config.json").write_text(json.dumps(config))
        pooled.append(ClipText(folder)(ids_T).pooled)
    assert np.array_equal(*pooled)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"num_hidden_layers": 10**6}, "layers.1.*is missing"),
        ({"hidden_size": 2**20}, "has shape"),
        ({"vocab_size": 2**20}, "has shape"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"num_attention_heads": 7}, "7 heads"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
    ],
)
def test_a_config_that_is_not_the_weights_is_refused(keys, words, random_mini, tmp_path):
    folder = shutil.copytree(random_mini, tmp_path / "copy")
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    with pytest.raises(BadInputError, match=words):
        TextEncoder.load(folder)


def words(folder, change):
    """Change the words of a tokenizer, by the file that it is read from."""
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))


def another_length(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 70}))


def another_end(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "!"}))


def swapped(whole):
    vocabulary = whole["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda folder: words(folder, swapped), "vocabulary"),
        (another_end, "end of a prompt"),
        (another_length, "model_max_length"),
    ],
    ids=["vocabulary", "end", "length"],
)
def test_a_second_tokenizer_that_differs_in_more_than_padding_is_refused(change, word, shallow, tmp_path):
    folder = shutil.copytree(shallow("sdxl"), tmp_path / "copy")
    change(folder / "tokenizer_2")
    for load in (TextEncoder.load, load_text_part):
        with pytest.raises(BadInputError, match=rf"tokenizer_2: another .*{word}"):
            load(folder)


def test_words_that_the_encoder_has_not_are_refused(random_mini):
    encoder = TextEncoder.load(random_mini)
    with pytest.raises(BadInputError, match="ids up to 100000"):
        encoder.encode(np.full((1, 4), 100_000, dtype=np.int32))


def test_the_error_function():
    values = np.linspace(-6, 6, 10_001, dtype=np.float32)
    exact = np.array([math.erf(value) for value in values])
    assert erf(values).dtype == np.float32 and np.abs(erf(values) - exact).max() < 4e-7
