from dataclasses import replace

import numpy as np
import pytest
import torch

from fglfast.generator.text_encoder import TextEncoder, TextPart, load_text_part


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
