"""Model folders of strangers: refused before anything is built, fetched, run or copied out of them."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from fglfast.base.errors import BadInputError
from fglfast.generator.configs import Announced, announced, check_folder, read_config
from fglfast.generator.kinds import INDEX
from fglfast.generator.load import blank_networks, read_shapes
from fglfast.generator.outline import outlined
from fglfast.generator.scheduler import scheduler_config
from fglfast.generator.text import load_prompts, native_image_size, resolve_model
from fglfast.generator.text_part import load_text_part
from fglfast.generator.tokens import load_tokenizer
from fglfast.sampler.schedule import Sampling, Schedule


@pytest.fixture
def copy(random_mini, tmp_path):
    shutil.copytree(random_mini, tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **keys) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_a_sound_folder_is_left_alone(copy):
    assert resolve_model(str(copy)) == copy and native_image_size(copy) == 32
    assert read_shapes(copy, 32).tokens == 16


def outside(copy, name):
    secret = copy.parent / "secret.json"
    secret.write_text("{}")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(secret)


HARM = {
    "a link out": (lambda copy: outside(copy, "vae/notes.txt"), "out of the model's folder"),
    "a linked config": (lambda copy: outside(copy, "unet/config.json"), "out of the model's folder"),
    "an adapter": (lambda copy: (copy / "unet" / "adapter_config.json").write_text("{}"), "adapters inside"),
    "an index that climbs": (
        lambda copy: (copy / "unet" / "x.safetensors.index.json").write_text('{"weight_map": {"a": "../../b"}}'),
        "weight_map",
    ),
    "an index of another copy": (
        lambda copy: (copy / "unet" / "x.safetensors.index.fp16.json").write_text('{"weight_map": {"a": "/b"}}'),
        "weight_map",
    ),
    "code": (lambda copy: change(copy / "unet" / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "kernels": (lambda copy: change(copy / "text_encoder" / "config.json", attn_implementation="a/b"), "asks for code"),
    "a number": (lambda copy: change(copy / "vae" / "config.json", block_out_channels=[10**9]), "a number beyond"),
    "no weights": (lambda copy: (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink(), "no safetensors"),
    "pickles only": (
        lambda copy: (copy / "vae" / "diffusion_pytorch_model.safetensors").rename(copy / "vae" / "a.bin"),
        "no safetensors",
    ),
    "deep prompts": (lambda copy: (copy / "prompts.json").write_text('{"a":' * 5000), "nested too deeply"),
    "long prompts": (lambda copy: (copy / "prompts.json").write_text(json.dumps({"negative": "x" * 2000})), "negative"),
}


@pytest.mark.parametrize("kind", HARM)
def test_what_could_harm_is_refused_when_the_folder_is_named(kind, copy):
    harm, words = HARM[kind]
    harm(copy)
    with pytest.raises(BadInputError, match=words):
        load_prompts(resolve_model(str(copy)))


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("unet", {"layers_per_block": 10**6}),
        ("unet", {"block_out_channels": [2**19, 2**20]}),
        ("unet", {"transformer_layers_per_block": 10**6}),
        ("unet", {"down_block_types": ["os.system"]}),
        ("unet", {"block_out_channels": "many"}),
        ("vae", {"latent_channels": 2**20}),
        ("vae", {"layers_per_block": 10**6}),
        ("vae", {"norm_num_groups": 0}),
    ],
)
def test_networks_larger_than_their_weights_are_not_built(part, keys, copy):
    change(copy / part / "config.json", **keys)
    started = time.process_time()
    with pytest.raises(BadInputError, match=part):
        blank_networks(copy)
    assert time.process_time() - started < 20


@pytest.mark.parametrize("keys", [{"num_hidden_layers": 10**6}, {"hidden_size": 2**20}, {"vocab_size": 2**20}])
def test_text_encoders_larger_than_their_weights_are_not_built(keys, copy):
    change(copy / "text_encoder" / "config.json", **keys)
    with pytest.raises(BadInputError, match="text_encoder"):
        load_text_part(copy)


@pytest.mark.parametrize("length", [0, 17, 10**30])
def test_a_tokenizer_pads_no_further_than_the_text_encoder_reads(length, copy):
    change(copy / "tokenizer" / "tokenizer_config.json", model_max_length=length)
    with pytest.raises(BadInputError, match="model_max_length"):
        load_tokenizer(copy)


@pytest.mark.parametrize(
    "keys",
    [
        {"_class_name": "FlaxDDIMScheduler"},
        {"_class_name": "StableDiffusionPipeline"},
        {"_class_name": "SchedulerMixin"},
        {"_class_name": ["DDIMScheduler"]},
        {"num_train_timesteps": 10**12},
        {"num_train_timesteps": "many"},
        {"beta_schedule": "none of these", "use_flow_sigmas": False},
        {"solver_order": -1, "algorithm_type": "none of these"},
    ],
)
def test_schedulers_are_those_of_diffusers_and_work(keys, copy):
    change(copy / "scheduler" / "scheduler_config.json", **keys)
    change(copy / INDEX, scheduler=[None, None])  # the config's own class counts where the index names none
    with pytest.raises(BadInputError, match="scheduler_config"):
        Schedule.of_model(copy, Sampling(steps=2))


def test_the_schedulers_class_is_the_one_that_the_index_names(copy):
    """As diffusers' pipelines have it."""
    change(copy / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", prediction_type="epsilon")
    change(copy / INDEX, scheduler=["diffusers", "DDIMScheduler"])
    assert Schedule.of_model(copy, Sampling(steps=2)).scheduler == scheduler_config(copy)["_class_name"]
    assert Schedule.of_model(copy, Sampling(steps=2)).scheduler == "DDIMScheduler"
    change(copy / INDEX, scheduler=["diffusers", "NoScheduler"])
    with pytest.raises(BadInputError, match=r"model_index.*NoScheduler"):
        Schedule.of_model(copy, Sampling(steps=2))


def test_the_hubs_cache_is_links_into_its_own_files(copy, tmp_path):
    repository = tmp_path / "models--a--b"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in copy.rglob("*") if path.is_file())):
        there = snapshot / path.relative_to(copy)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(number))
        there.symlink_to(blobs / str(number))
    assert resolve_model(str(snapshot)) == snapshot
    (snapshot / "more").symlink_to(copy)
    with pytest.raises(BadInputError, match="link that leads out"):
        check_folder(snapshot)


def test_configs_keep_their_infinities(random_mini):
    assert read_config(random_mini / "scheduler" / "scheduler_config.json")["lambda_min_clipped"] == -float("inf")


def test_a_network_as_large_as_its_weights_is_outlined_without_memory(random_mini):
    held = announced(random_mini / "unet")
    assert 0 < held.tensors < 1000 and held.elements > 10_000
    with outlined(Announced(2, 10**9), "x"):
        assert nn.Linear(1000, 1000).weight.device == torch.device("meta")
    assert nn.Linear(2, 2).weight.device == torch.device("cpu")
    with pytest.raises(BadInputError, match=r"x: .* more elements"), outlined(Announced(2, 10), "x"):
        nn.Linear(2**14, 2**14)
    with pytest.raises(BadInputError, match="more modules"), outlined(Announced(2, 10), "x"):
        nn.Sequential(*(nn.ReLU() for _ in range(5000)))
