"""Keys and values taken out of the UNet: the same predictions, and what cannot be taken is refused."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fglfast.base.errors import BadInputError
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.text_projection import take_projection


@torch.inference_mode()
@pytest.mark.parametrize("family", ["sd15", "sd21-base"])
def test_a_split_unet_predicts_what_the_whole_one_does(family, narrow):
    torch.manual_seed(0)
    folder = narrow(family)
    shapes, generator = read_shapes(folder, 64), load_generator(folder)
    whole = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    latents, text = torch.randn(2, *shapes.latent), torch.randn(2, shapes.text_length, shapes.text_width)
    expected = whole(latents, torch.tensor([7.0, 900.0]), text).sample
    projected = generator.projection(text)
    assert projected.shape == (2, shapes.text_length, shapes.projected_width)
    assert torch.allclose(generator.unet(latents, torch.tensor([7.0, 900.0]), projected), expected, atol=1e-5)


@torch.inference_mode()
def test_the_pooled_row_passes_as_it_is(narrow):
    folder = narrow("sdxl")
    shapes, generator = read_shapes(folder, 64), load_generator(folder)
    text = torch.randn(1, shapes.text_length, shapes.text_width)
    pooled = generator.unet.pooled_width
    projected = generator.projection(text)
    assert torch.equal(projected[:, -1, :pooled], text[:, -1, :pooled]) and not projected[:, -1, pooled:].any()


def test_weights_are_moved_not_copied(narrow):
    unet = UNet2DConditionModel.from_pretrained(narrow("sd15") / "unet")
    before = sum(p.numel() for p in unet.parameters())
    projection = take_projection(unet)
    assert sum(p.numel() for p in unet.parameters()) + projection.linear.weight.numel() == before


def test_a_cross_attention_that_does_more_is_refused(narrow):
    unet = UNet2DConditionModel.from_pretrained(narrow("sd15") / "unet")
    strange = copy.deepcopy(unet)
    strange.mid_block.attentions[0].transformer_blocks[0].attn2.norm_cross = nn.LayerNorm(8)
    unet.encoder_hid_proj = nn.Identity()
    for each in (strange, unet):
        with pytest.raises(BadInputError, match="Stable Diffusion"):
            take_projection(each)
