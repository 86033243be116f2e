"""What is fetched of a model of the hub, and in which order; and which of several copies of its weights is read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fake_hub import NAME

from fglfast.base.errors import BadInputError
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.kinds import INDEX
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.text import load_prompts, resolve_model, text_fingerprint
from fglfast.generator.text_encoder import TextEncoder


@pytest.fixture
def repository(hub):
    return hub.root / NAME


def change(path: Path, **keys) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_the_whole_model_is_one_copy_of_its_weights(hub, random_mini):
    folder = resolve_model(NAME)
    assert hub.weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert weights_fingerprint(folder) == weights_fingerprint(random_mini) and hub.fetched[0] == INDEX


def test_a_client_fetches_the_text_side_alone(hub, random_mini):
    folder = resolve_model(NAME, need="text")
    assert hub.weights == ["text_encoder/model.safetensors"]
    assert TextEncoder.load(folder).fingerprint == text_fingerprint(random_mini)
    assert load_prompts(folder) == load_prompts(random_mini)


def test_configs_come_without_weights_and_tell_the_sizes(hub, random_mini):
    folder = resolve_model(NAME, need="configs")
    assert hub.weights == [] and (folder / "tokenizer").is_dir()
    assert read_shapes(folder, 32) == read_shapes(random_mini, 32)


@pytest.mark.parametrize("need", ["all", "text", "configs"])
@pytest.mark.parametrize(
    "name",
    ["FluxPipeline", "StableDiffusionInpaintPipeline", "StableDiffusionXLImg2ImgPipeline", "PixArtAlphaPipeline"],
)
def test_other_pipelines_are_refused_by_the_index_before_anything_else_is_fetched(name, need, hub, repository):
    change(repository / INDEX, _class_name=name)
    with pytest.raises(BadInputError, match=name) as refused:
        resolve_model(NAME, need=need)
    assert hub.fetched == [INDEX] and refused.value.exit_code == 4


def test_other_networks_are_refused_before_their_weights_are_fetched(hub, repository):
    change(repository / "unet" / "config.json", in_channels=9)
    with pytest.raises(BadInputError, match="in_channels is 9"):
        resolve_model(NAME)
    assert hub.weights == []


def test_a_repository_that_is_no_model_folder_is_refused_at_once(hub, repository):
    (repository / INDEX).unlink()
    with pytest.raises(BadInputError, match=INDEX):
        resolve_model(NAME)
    assert hub.fetched == []


def test_a_repository_of_a_text_side_alone_is_enough_for_a_client(hub, repository, random_mini):
    for name in (INDEX, "unet", "vae", "scheduler"):
        path = repository / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert text_fingerprint(resolve_model(NAME, need="text")) == text_fingerprint(random_mini)
    assert resolve_model(str(repository), need="text") == repository
    with pytest.raises(BadInputError, match=INDEX):
        resolve_model(str(repository))


def renamed_to_fp16(folder):
    """Its weights in 16 bits alone, named as diffusers does."""
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))


def test_weights_in_16_bits_are_fetched_and_read_where_there_are_no_others(hub, repository, random_mini):
    shutil.rmtree(repository)
    shutil.copytree(random_mini, repository)
    renamed_to_fp16(repository)
    folder = resolve_model(NAME)
    assert hub.weights == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    plain, halved = load_generator(random_mini), load_generator(folder)
    latents, timestep = torch.ones(1, 8, 8, 8), torch.tensor([500.0])
    text = plain.projection(plain.text(torch.ones(1, 16, dtype=torch.long)))
    assert torch.equal(plain.unet(latents, timestep, text), halved.unet(latents, timestep, text))
    assert torch.equal(plain.decoder(latents), halved.decoder(latents))


def test_copies_that_are_not_read_change_no_fingerprint(random_mini, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(random_mini, folder)
    before = text_fingerprint(folder), weights_fingerprint(folder)
    for part, name in (("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        (folder / part / f"{name}.fp16.safetensors").write_bytes(b"other")
        (folder / part / f"{name}.safetensors.index.fp16.json").write_text('{"weight_map": {}}')
    assert (text_fingerprint(folder), weights_fingerprint(folder)) == before
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"other")
    assert text_fingerprint(folder) != before[0]
