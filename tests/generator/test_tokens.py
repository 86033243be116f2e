"""Our tokenizer gives the ids of transformers' CLIPTokenizer, from every form in which its files come."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from fglfast.base.errors import BadInputError
from fglfast.generator.architecture import build_tokenizer
from fglfast.generator.parts import bundled
from fglfast.generator.tokens import Tokenizer, load_tokenizer, read_tokenizer

TEXT = [
    "a photograph of an ankle boot, real world images, high resolution",
    "don't they've Größe naïve café!",
    "犬と猫",
]
MARKED = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def ends(**others):
    """How Stable Diffusion's `special_tokens_map.json` says its special tokens."""
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    return {name: {"content": content, **MARKED} for name, content in names.items()} | others


@pytest.fixture(scope="module")
def forms(tmp_path_factory, narrow):
    """Tokenizer folders: the bundled one, SDXL's two, and one vocabulary in the forms that Stable Diffusion has had."""
    root = tmp_path_factory.mktemp("tokenizers")
    whole = root / "whole"
    build_tokenizer(TEXT, 77).save_pretrained(whole)
    model = json.loads((whole / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    kinds = {
        "sd15": (config | {"pad_token": "<|endoftext|>"}, ends(pad_token="<|endoftext|>")),
        "sd21": (config | {"pad_token": "<|endoftext|>"}, ends(pad_token="!")),
        "decoder": (config | {"pad_token": "!", "added_tokens_decoder": decoder(model)}, ends()),
        "bare": (config, None),
    }
    for kind, (said, special) in kinds.items():
        folder = root / kind
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
        if special:
            (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    both = {name: narrow("sdxl") / name for name in ("tokenizer", "tokenizer_2")}
    folders = {"mini": bundled("mini") / "tokenizer", "whole": whole, **{kind: root / kind for kind in kinds}, **both}
    return {kind: (read_tokenizer(folder), CLIPTokenizer.from_pretrained(folder)) for kind, folder in folders.items()}


def decoder(model):
    """`added_tokens_decoder` as later versions write it, with a word of somebody's own."""
    ids = {token: model["vocab"][token] for token in ("!", "<|startoftext|>", "<|endoftext|>")}
    own = {len(model["vocab"]): {"content": "<own>", **MARKED, "normalized": False, "special": False}}
    return {number: {"content": token, **MARKED, "special": True} for token, number in ids.items()} | own


KINDS = ("mini", "whole", "sd15", "sd21", "decoder", "bare", "tokenizer", "tokenizer_2")
WORDS = st.sampled_from(
    [*" ".join(TEXT).split(), "<|endoftext|>", "<|STARTOFTEXT|>", "<own>", "!", "!!", "\u0130", "é"]
)
PROMPTS = st.one_of(st.text(max_size=40), st.lists(st.one_of(WORDS, st.text(max_size=3)), max_size=30).map(" ".join))


@pytest.mark.parametrize("kind", KINDS)
@given(PROMPTS)
@settings(max_examples=60)
@example("A  Photograph\tof\nan ANKLE Boot, 42 \U0001f98a e\u0301 \u2028 \x00 ﬁ ½ İ ß Σς")
@example("wow! <|endoftext|>!! <|EndOfText|> <own> <OWN>")
@example("")
def test_ids_are_those_of_transformers(kind, forms, prompt):
    ours, theirs = forms[kind]
    assert ours.bpe.encode(prompt).ids == theirs(prompt).input_ids
    assert (ours.pad, ours.eos, ours.length) == (theirs.pad_token_id, theirs.eos_token_id, theirs.model_max_length)
    kept = ours.fit([prompt])
    padded = theirs(kept, padding="max_length", truncation=True, max_length=ours.length)
    assert np.array_equal(ours.tokenize([prompt]), np.array(padded.input_ids))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A tokenizer of prompts of 16 tokens."""
    folder = tmp_path_factory.mktemp("short")
    build_tokenizer(["bag, dark plain wide"], 16).save_pretrained(folder)
    return read_tokenizer(folder)


def test_long_prompts_are_counted_and_shortened_at_a_word(short: Tokenizer, capsys):
    long = "bag, " + "dark plain wide " * 8
    ids = short.tokenize(["bag", long, long + "wide"])
    told = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 prompts are over 16 tokens (the longest has 29) and shortened at a word" in told
    assert ids.shape == (3, 16) and ids.dtype == np.int32
    assert short.bpe.decode(list(ids[1])).replace("</w>", " ").split()[-1] in {"dark", "plain", "wide"}


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=60)
def test_what_is_shortened_fits_and_is_a_beginning(short, text):
    if short.sizes([text])[0] <= 16:
        return
    kept = short.shortened(text)
    assert short.sizes([kept])[0] <= 16
    assert "".join(text.split()).startswith("".join(kept.split()))


def test_a_script_without_spaces_keeps_as_many_letters_as_fit(short):
    kept = short.shortened("犬" * 40)
    assert 1 <= len(kept) < 40 and short.sizes([kept])[0] <= 16 < short.sizes([kept + "犬"])[0]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", '{"model": {"vocab": [], "merges": []}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": -1}, "merges": []}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 1}, "merges": ["a b"]}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 1}, "merges": ["a"]}}'),
        ("tokenizer.json", '{"model": ' * 5000),
        ("tokenizer_config.json", '{"model_max_length": "long"}'),
        ("tokenizer_config.json", '{"pad_token": 7}'),
    ],
)
def test_a_strangers_tokenizer_is_refused_by_its_name(file, content, tmp_path):
    shutil.copytree(bundled("mini"), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "model" / "tokenizer" / file).write_text(content, encoding="utf-8")
    with pytest.raises(BadInputError, match="tokenizer"):
        load_tokenizer(tmp_path / "model")
