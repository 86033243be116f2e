"""Group norms that leave images channels last: PyTorch's values, layout and places."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from fglfast.engine.backends import compiled
from fglfast.engine.group_norm import ChannelsLastGroupNorm, keep_channels_last


def norms(channels, groups):
    norm = nn.GroupNorm(groups, channels, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm, ChannelsLastGroupNorm(norm)


@pytest.mark.parametrize("shape", [(3, 64, 9, 5), (2, 64, 7), (1, 64, 4, 4)])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_the_values_are_those_of_pytorch(shape, mean):
    norm, ours = norms(64, 32)
    values = torch.randn(shape) + mean
    assert torch.allclose(ours(values), norm(values), atol=2e-3 if mean else 1e-5)


def test_sixteen_bits_lose_no_more_than_with_pytorch():
    norm, ours = norms(64, 16)
    values = (torch.randn(4, 64, 16, 16) + 3).bfloat16().to(memory_format=torch.channels_last)
    exact = norm(values.float())
    found = ours(values)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    assert (found - exact).norm() <= 1.01 * (norm.bfloat16()(values) - exact).norm()


def test_all_of_a_network_are_replaced_in_its_compiled_form_for_a_gpu_in_sixteen_bits(monkeypatch):
    def network():
        torch.manual_seed(0)
        sizes = {"block_out_channels": (32, 64), "cross_attention_dim": 16, "sample_size": 8}
        blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
        blocks |= {"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
        return UNet2DConditionModel(**sizes, **blocks).eval()

    def counted(kind, within):
        return sum(isinstance(module, kind) for module in within.modules())

    plain, changed = network(), network()
    count = counted(nn.GroupNorm, plain)
    assert count > 20 and keep_channels_last(changed) == counted(ChannelsLastGroupNorm, changed) == count
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([999.0, 1.0]), torch.randn(2, 77, 16)
    with torch.inference_mode():
        assert torch.allclose(changed(*inputs)[0], plain(*inputs)[0], atol=1e-4)

    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    for device, dtype, expected in (
        ("cpu", torch.bfloat16, 0),
        ("cuda", torch.float32, 0),
        ("cuda", torch.half, count),
    ):
        served = network()
        compiled.BACKEND.function(served, device, dtype)
        assert counted(ChannelsLastGroupNorm, served) == expected
