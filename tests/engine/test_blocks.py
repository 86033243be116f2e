"""Two UNets that share time, as one denoiser in every backend."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.machine import native_int8
from fglfast.engine.backends import installed
from fglfast.engine.build import build_engine
from fglfast.engine.export import UNET, example_inputs
from fglfast.engine.trajectory import OURS
from fglfast.generator.architecture import MiniSettings, build_unet
from fglfast.generator.load import load_generator, read_shapes, segment, weights_fingerprint
from fglfast.generator.text import resolve_model

MEAN, STD = [0.5, -1.0] * 4, [2.0, 0.5, 1.5, 3.0] * 2  # of the latents, by channel


@pytest.fixture(scope="module")
def blockwise(random_mini, tmp_path_factory):
    """The random small model above timestep 400, a narrower one from there on; its latents have mean and deviation."""
    folder = tmp_path_factory.mktemp("blocks") / "blockwise"
    shutil.copytree(random_mini, folder)
    torch.manual_seed(5)
    build_unet(MiniSettings(unet_channels=(16, 32))).half().save_pretrained(folder / "unet_2")
    (folder / "blocks.json").write_text(json.dumps({"boundaries": [400.0]}))
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latents_mean": MEAN, "latents_std": STD}))
    return folder


def test_every_timestep_is_one_networks_own():
    assert [segment(t, (750.0, 250.0)) for t in (1000.0, 751.0, 750.0, 251.0, 250.0, 0.0)] == [0, 0, 1, 1, 2, 2]
    assert segment(3.0, ()) == 0


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.mark.parametrize("backend", [name for name in installed() if name != "torch-compile"])
def test_each_backend_asks_the_network_whose_time_it_is(backend, blockwise, recipe, engines):
    build = {"backend": backend, "unet_batch": 4}
    engine = build_engine(recipe.model_copy(update=build), blockwise, engines)
    assert engine.manifest.parity.problem() == ""
    latents, _, _ = (torch.randn_like(tensor) for tensor in example_inputs(engine.shapes, 3)[UNET].values())
    text = torch.randn(3, engine.shapes.text_length, engine.shapes.text_width)
    for timestep, part in ((900.0, "unet"), (401.0, "unet"), (400.0, "unet_2"), (20.0, "unet_2")):
        whole = UNet2DConditionModel.from_pretrained(blockwise / part, torch_dtype=torch.float32)
        timestep_B = torch.full((3,), timestep)
        expected = whole(latents, timestep_B, text, return_dict=False)[0]
        found = engine.networks.denoise(latents, timestep_B, engine.networks.project(text))
        assert torch.allclose(found, expected, atol=2e-3), (timestep, (found - expected).abs().max())


def test_a_compiled_decoder_knows_mean_and_deviation(blockwise, recipe, engines):
    """Exported, not only in PyTorch."""
    built = build_engine(recipe.model_copy(update={"backend": "onnxruntime", "unet_batch": 4}), blockwise, engines)
    assert built.manifest.reference == OURS
    latents = torch.randn(3, *built.shapes.latent)
    vae = load_generator(blockwise).decoder.vae
    mean, std = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in (MEAN, STD))
    with torch.no_grad():
        expected = vae.decode(latents * std / vae.config.scaling_factor + mean).sample
        assert torch.allclose(built.networks.decode(latents), expected, atol=1e-3)


def test_eight_bits_are_calibrated_by_each_networks_own_time(blockwise, recipe, engines):
    pytest.importorskip("nncf")
    if not native_int8():
        with pytest.raises(UsageError, match="VNNI"):
            build_engine(recipe.model_copy(update={"precision": "int8"}), blockwise, engines)
        return
    engine = build_engine(recipe.model_copy(update={"precision": "int8"}), blockwise, engines)
    parity = engine.manifest.parity
    assert parity.problem() == "" and parity.unet > 1e-4


def test_the_second_network_is_part_of_the_model(blockwise, random_mini, tmp_path):
    shapes, alone = read_shapes(blockwise, 32), read_shapes(random_mini, 32)
    assert shapes.boundaries == (400.0,) and shapes.projected_width > alone.projected_width
    assert len(load_generator(blockwise).unets) == 2
    changed = tmp_path / "changed"
    shutil.copytree(blockwise, changed)
    (changed / "blocks.json").write_text(json.dumps({"boundaries": [300.0]}))
    assert len({weights_fingerprint(folder) for folder in (blockwise, changed, random_mini)}) == 3
    (changed / "unet_2" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInputError, match="unet_2: no safetensors"):
        resolve_model(str(changed))
    (changed / "blocks.json").write_text(json.dumps({"boundaries": [300.0, 400.0]}))
    with pytest.raises(BadInputError, match="descending"):
        resolve_model(str(changed))
