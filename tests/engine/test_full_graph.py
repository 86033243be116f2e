"""The whole UNets of Stable Diffusion 1.5 and XL, as they are compiled for a GPU: one graph each, without weights."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from fglfast.engine.attention import Kernels, install
from fglfast.generator.families import TOKENS, UNETS
from fglfast.generator.load import split_unet

LAYERS = {"sd15": 32, "sdxl": 140}  # of attention


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.long)])
def test_a_whole_unet_is_one_graph(family, traced):
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**UNETS[family]), AutoencoderKL(block_out_channels=(32,) * 4)
        part, projection = split_unet(unet, vae)
    part.eval().requires_grad_(False)
    assert install(part, Kernels({})) == LAYERS[family]
    compiled = torch.compile(part, backend=traced.backend, fullgraph=True, dynamic=False)
    side, rows = UNETS[family]["sample_size"], TOKENS + (projection.pooled > 0)
    latents, timestep = torch.empty(2, 4, side, side, device="meta"), torch.empty(2, device="meta")
    with torch.inference_mode():
        output = compiled(latents, timestep, torch.empty(2, rows, projection.width, device="meta"))
    assert output.shape == latents.shape and len(traced) == 1
    calls = [node.name for node in traced[0].graph.nodes if "scaled_dot_product_attention" in node.name]
    assert len(calls) == LAYERS[family]
