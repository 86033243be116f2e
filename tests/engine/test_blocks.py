"""Two models that share time, as one generator."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel

from fglfast.base.errors import BadInputError, UsageError
from fglfast.engine import batch_search
from fglfast.engine.build import build_engine
from fglfast.engine.exported import UNET, example_inputs
from fglfast.generator.architecture import MiniSettings, build_unet
from fglfast.generator.blocks import load_blocks, segment
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.load import read_shapes
from fglfast.generator.text import resolve_model
from fglfast.lab.bench.operations import count_operations
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.repair import check_model
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize


@pytest.fixture(scope="module")
def blockwise(random_mini, tmp_path_factory):
    """The random small model above timestep 400, a narrower one from there on."""
    folder = tmp_path_factory.mktemp("blocks") / "blockwise"
    shutil.copytree(random_mini, folder)
    torch.manual_seed(5)
    build_unet(MiniSettings(unet_channels=(16, 32))).half().save_pretrained(folder / "block_2" / "unet")
    shutil.copy(folder / "model_index.json", folder / "block_2")
    (folder / "blocks.json").write_text(json.dumps({"boundaries": [400.0]}))
    return folder


def test_every_timestep_is_one_networks_own():
    assert [segment(t, (750.0, 250.0)) for t in (1000.0, 751.0, 750.0, 251.0, 250.0, 0.0)] == [0, 0, 1, 1, 2, 2]
    assert segment(3.0, ()) == 0


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def engine(blockwise, torch_recipe, engines):
    return build_engine(torch_recipe, blockwise, engines)


def test_each_network_is_asked_when_it_is_its_time(engine, blockwise):
    latents = example_inputs(engine.shapes, 3)[UNET]["latents"]
    text = torch.randn(3, engine.shapes.text_length, engine.shapes.text_width)
    for timestep, part in ((900.0, "unet"), (401.0, "unet"), (400.0, "block_2/unet"), (20.0, "block_2/unet")):
        whole = UNet2DConditionModel.from_pretrained(blockwise / part, torch_dtype=torch.float32)
        timestep_B = torch.full((3,), timestep)
        expected = whole(latents, timestep_B, text, return_dict=False)[0]
        found = engine.networks.denoise(latents, timestep_B, engine.networks.project(text))
        assert torch.allclose(found, expected, atol=2e-3), (timestep, (found - expected).abs().max())


def test_what_both_drew_is_repaired_by_both(engine, blockwise, random_mini, recipe, payload, tmp_path):
    merged, settings = merge_payloads([payload("ann", (1, 1, 0))]), SynthesisSettings(images_per_class=1)
    synthesize(engine, merged, settings.model_copy(update={"sampling": recipe.sampling}), tmp_path)
    check_model(tmp_path, blockwise, 32)
    with pytest.raises(UsageError, match="was drawn with weights"):
        check_model(tmp_path, random_mini, 32)


def test_batches_are_measured_on_the_first_block(blockwise, recipe, engines, monkeypatch):
    monkeypatch.setattr(batch_search, "CANDIDATES", (2,))
    found = batch_search.search_batches(recipe, blockwise, engines)
    assert (found.backend, found.unet_batch, found.vae_batch) == ("openvino", 2, 2)


def test_the_second_block_is_part_of_the_model(blockwise, torch_recipe, tmp_path):
    first, second = load_blocks(blockwise).folders(blockwise)
    assert first == blockwise and weights_fingerprint(first) != weights_fingerprint(second)
    changed = tmp_path / "changed"
    shutil.copytree(blockwise, changed)
    (changed / "blocks.json").write_text(json.dumps({"boundaries": [300.0]}))
    built = [build_engine(torch_recipe, folder, tmp_path / "engines") for folder in (blockwise, changed)]
    assert built[0].key != built[1].key and {engine.key for engine in built}.isdisjoint(
        path.name for path in (tmp_path / "engines").iterdir()
    )
    widths = [read_shapes(folder, 32).projected_width for folder in (first, second)]
    assert [engine.shapes.projected_width for engine in built] == [sum(widths)] * 2
    assert count_operations(blockwise, built[0].shapes, Schedule.of_model(blockwise, Sampling(steps=4))).image > 0
    (changed / "block_2" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInputError, match="block_2/unet: no safetensors"):
        resolve_model(str(changed))
    (changed / "blocks.json").write_text(json.dumps({"boundaries": [300.0, 400.0]}))
    with pytest.raises(BadInputError, match="descending"):
        resolve_model(str(changed))
