from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fglfast.generator.architecture import build_tokenizer
from fglfast.generator.text_encoder import TextEncoder, TextPart, load_text_part, shortened, tokenize

TOKENIZER = build_tokenizer(["bag, dark plain wide"], 16)


def count(text):
    return len(TOKENIZER(text).input_ids)


def test_long_prompts_are_counted_and_shortened_at_a_word(capsys):
    long = "bag, " + "dark plain wide " * 8
    ids = tokenize(TOKENIZER, ["bag", long, long + "wide"])
    told = " ".join(capsys.readouterr().err.split())
    assert "2 of 3 prompts are over 16 tokens (the longest has 29) and shortened at a word" in told
    assert ids.shape == (3, 16)
    assert TOKENIZER.decode(ids[1], skip_special_tokens=True).split()[-1] in {"dark", "plain", "wide"}


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=60)
def test_what_is_shortened_fits_and_is_a_beginning(text):
    if count(text) <= 16:
        return
    kept = shortened(TOKENIZER, text, 16)
    assert count(kept) <= 16
    assert "".join(text.split()).startswith("".join(kept.split()))


def test_a_script_without_spaces_keeps_as_many_letters_as_fit():
    kept = shortened(TOKENIZER, "犬" * 40, 16)
    assert 1 <= len(kept) < 40 and count(kept) <= 16 < count(kept + "犬")


class Rounded(TextPart):
    """What a product of another shape may do to the last bits of its rows, large enough to be seen."""

    def forward(self, token_ids):
        return super().forward(token_ids) * (1 + len(token_ids) / 1024)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rounded", [False, True])
def test_a_prompt_more_changes_no_bit_of_the_others(random_mini, dtype, rounded):
    part = load_text_part(random_mini).to(dtype)
    encoder = TextEncoder.load(random_mini)
    encoder = replace(encoder, part=Rounded(part.encoder).eval() if rounded else part)
    prompts = [f"{thing}, {shade}" for thing in ("bag", "t-shirt", "ankle boot") for shade in ("dark", "plain")] * 12
    with_it, without = (encoder.encode(encoder.tokenize(some)) for some in (["bag", *prompts], prompts))
    assert with_it.dtype == np.float32 and np.array_equal(with_it[1:], without)
