"""Doubling by a transposed convolution: diffusers' values, edges, sizes and places."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D

from fglfast.engine.backends import compiled
from fglfast.engine.upsampling import TransposedUpsample, is_plain, transpose_upsampling


def unet(sample_size=8):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    blocks |= {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    sizes = {"block_out_channels": (32, 64), "cross_attention_dim": 16, "sample_size": sample_size}
    return UNet2DConditionModel(**sizes, **blocks).eval()


def decoder():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    return AutoencoderKL(**blocks, block_out_channels=(32, 32, 64), latent_channels=4).decoder.eval()


def counted(network):
    return sum(isinstance(module, TransposedUpsample) for module in network.modules())


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 8, 1, 1), (64, 8, 2, 2)])
@pytest.mark.parametrize("out_channels", [8, 12])
def test_the_values_are_those_of_diffusers_up_to_the_edges(shape, out_channels):
    stock = Upsample2D(8, use_conv=True, out_channels=out_channels).eval()
    image = torch.randn(shape)
    with torch.inference_mode():
        assert torch.allclose(TransposedUpsample(stock)(image), stock(image), atol=1e-5)


def test_sixteen_bits_stay_channels_last_and_lose_about_as_much():
    stock = Upsample2D(64, use_conv=True).eval()
    image = torch.randn(2, 64, 8, 8).to(torch.bfloat16, memory_format=torch.channels_last)
    exact = stock(image.float())
    half = copy.deepcopy(stock).bfloat16().to(memory_format=torch.channels_last)
    with torch.inference_mode():
        found, theirs = TransposedUpsample(half)(image), half(image)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    assert (found - exact).norm() <= 1.3 * (theirs - exact).norm()


@pytest.mark.parametrize(
    "other",
    [
        Upsample2D(8),
        Upsample2D(8, use_conv_transpose=True),
        Upsample2D(8, use_conv=True, interpolate=False),
        Upsample2D(8, use_conv=True, norm_type="ln_norm"),
        Upsample2D(8, use_conv=True, kernel_size=5, padding=2),
        Upsample2D(8, use_conv=True, name="Conv2d_0"),
    ],
)
def test_what_doubles_in_another_way_is_left_alone(other):
    assert not is_plain(other)


@pytest.mark.parametrize("side", [8, 7])
def test_all_of_a_network_are_replaced_also_where_no_halving_fits(side):
    plain, changed = unet(side), unet(side)
    assert transpose_upsampling(changed) == counted(changed) == 1
    inputs = torch.randn(2, 4, side, side), torch.tensor([999.0, 1.0]), torch.randn(2, 77, 16)
    with torch.inference_mode():
        assert torch.allclose(changed(*inputs)[0], plain(*inputs)[0], atol=1e-5)


def test_a_network_compiled_for_a_gpu_in_sixteen_bits_takes_them(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    on_cpu = compiled.BACKEND.key_facts()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compiled.BACKEND.key_facts() == {"rewritten": "group norms, upsampling"} and "rewritten" not in on_cpu
    for device, dtype, expected in (("cpu", torch.bfloat16, 0), ("cuda", torch.float32, 0), ("cuda", torch.half, 2)):
        served = decoder()
        compiled.BACKEND.function(served, device, dtype)
        assert counted(served) == expected
