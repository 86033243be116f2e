"""Shared fixtures: a random small model, payloads, an engine."""

import os
import shutil
from functools import partial

# Before PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests are of CPUs and stand-ins; `make test-gpu` is for a GPU

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from shard_samples import write_synthetic

from fglfast.base.console import speaker
from fglfast.base.files import exclusive
from fglfast.payload import Payload, PayloadHeader
from fglfast.payload.merge import merge_payloads

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

LONGEST = ("test_deployment", "test_ranks", "test_readme", "test_fusions", "test_ort", "test_learn")


def pytest_collection_modifyitems(items):
    """Files that take longest come first, so that no worker is left with one at the end."""
    items.sort(key=lambda item: (item.path.stem != LONGEST[0], item.path.stem not in LONGEST))


@pytest.fixture(autouse=True)
def left_as_found():
    """What a command sets for its whole process, its name as a rank and the environment, is put back after a test."""
    spoken, environment = vars(speaker).copy(), os.environ.copy()
    yield
    vars(speaker).update(spoken)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder of all workers: what takes long is made by one and found by the others."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """A finished data set of three classes in three shards."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "synthetic")


@pytest.fixture
def make_synthetic(tmp_path):
    """Make such a data set of one's own; `facts` overrule what it says of itself."""
    return lambda **facts: write_synthetic(tmp_path / "synthetic", **facts)


@pytest.fixture(scope="session")
def random_mini(shared):
    """A model folder in the diffusers layout with random weights, smaller than mini."""
    folder = shared / "random-mini"
    with exclusive(shared / "random-mini.lock"):
        if not folder.exists():
            _save_random_mini(folder)
    return folder


def _save_random_mini(folder):
    from fglfast.generator.architecture import (
        MiniSettings,
        build_text_encoder,
        build_tokenizer,
        build_unet,
        build_vae,
        save_pipeline,
    )

    torch.manual_seed(0)
    settings = MiniSettings(unet_channels=(32, 32), vae_channels=(16, 16, 16), text_layers=1)
    captions = [f"{name}, dark plain wide" for name in ("t-shirt", "bag", "ankle boot")]
    tokenizer = build_tokenizer(captions, settings.max_tokens)
    text_encoder = build_text_encoder(settings, tokenizer)
    save_pipeline(folder, build_vae(settings), build_unet(settings), text_encoder, tokenizer)
    (folder / "prompts.json").write_text(
        '{"class_level": "{label}", "instance_level": "{label}, {caption}", "negative": ""}'
    )


@pytest.fixture(scope="session")
def adapters(random_mini, tmp_path_factory):
    """The file of an inventory for `random_mini`: three adapters of random weights, two heads."""
    from fglfast.generator.fingerprints import weights_fingerprint
    from fglfast.generator.inventory import Inventory, InventoryHeader, save_inventory
    from fglfast.generator.load import read_shapes
    from fglfast.generator.text import text_fingerprint

    shapes = read_shapes(random_mini, 32)
    description = InventoryHeader(
        adapters=3,
        heads=2,
        rank=2,
        text_encoder=text_fingerprint(random_mini),
        model=weights_fingerprint(random_mini),
        length=shapes.text_length,
        width=shapes.text_width,
        transformations=("unchanged", "inverted"),
    )
    made, draws = Inventory(description), torch.Generator().manual_seed(5)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws) / 4
    path = tmp_path_factory.mktemp("inventory") / "adapters.safetensors"
    save_inventory(made, path)
    return path


@pytest.fixture(scope="session")
def idle(random_mini):
    """Make an engine that computes nothing: (decoder, rows of a pass, name) -> Engine."""
    from idle_engine import idle_engine

    return partial(idle_engine, random_mini)


@pytest.fixture
def hub(random_mini, tmp_path, monkeypatch):
    """A hub that has the random small model as `someone/something`, and more files in it than any run needs."""
    from fake_hub import NAME, FakeHub

    folder = tmp_path / "hub" / NAME
    shutil.copytree(random_mini, folder)
    for name in ("unet/diffusion_pytorch_model.fp16", "vae/diffusion_pytorch_model.non_ema", "text_encoder/model.fp16"):
        (folder / f"{name}.safetensors").write_bytes(b"")
    for name in ("unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors", "model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return FakeHub(tmp_path / "hub", tmp_path / "cache").install(monkeypatch)


@pytest.fixture
def of_three_classes(tmp_path):
    """A file of nine grey images of three classes, of which one has none."""
    images = np.random.default_rng(0).integers(0, 255, (9, 16, 16), dtype=np.uint8)
    path = tmp_path / "images.npz"
    np.savez(path, images=images, labels=np.array([2, 0] * 4 + [2]), class_names=np.array(["bag", "t-shirt", "boot"]))
    return path


@pytest.fixture(scope="session")
def narrow(tmp_path_factory):
    """Make the model folder of a Stable Diffusion family, narrow, with random weights."""
    from fglfast.generator.families import random_model

    root = tmp_path_factory.mktemp("families")
    return lambda family: random_model(family, root / family, narrow=True)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory):
    """As `narrow`, with two blocks down and two up, of one layer each: the same modules, soon exported."""
    from fglfast.generator import families

    root = tmp_path_factory.mktemp("shallow")
    two = {"block_out_channels": (32, 64), "layers_per_block": 1}
    ends = {name: types[::3] for name, types in families.BLOCKS.items()}
    less = {
        "sd15": two | ends,
        "sd21-base": two | ends | {"attention_head_dim": (1, 4)},
        "sdxl": two
        | {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "attention_head_dim": (1, 2),
        },
    }

    def make(family):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(families.UNET_NARROW, family, families.UNET_NARROW[family] | less[family])
            return families.random_model(family, root / family, narrow=True)

    return make


@pytest.fixture(scope="session")
def recipe():
    from fglfast.engine.recipe import Recipe
    from fglfast.sampler.schedule import Sampling

    return Recipe(
        backend="openvino",
        precision="float32",
        image_size=32,
        unet_batch=8,
        vae_batch=4,
        sampling=Sampling(steps=2, guidance_scale=2.0),
    )


@pytest.fixture(scope="session")
def engine(random_mini, recipe, shared):
    from fglfast.engine.build import build_engine

    return build_engine(recipe, random_mini, shared / "engines")


@pytest.fixture(scope="session")
def payload(random_mini):
    """Make a client's class-level payload: (name, counts by class) -> Payload."""
    from fglfast.generator.text_encoder import TextEncoder

    encoder, names = TextEncoder.load(random_mini), ("t-shirt", "bag", "ankle boot")

    def make(client: str, counts: tuple[int, int, int], tokens: bool = False) -> Payload:
        labels = np.flatnonzero(counts)
        ids = encoder.tokenize([names[label] for label in labels])
        return Payload(
            header=PayloadHeader(
                client=client, class_names=names, prompt_level="class", text_encoder=encoder.fingerprint
            ),
            embeddings=None if tokens else encoder.encode(ids).astype(np.float16),
            token_ids=ids if tokens else None,
            labels=labels.astype(np.int64),
            counts=np.array([counts[label] for label in labels], dtype=np.int64),
        )

    return make


@pytest.fixture(scope="session")
def merged(payload):
    return merge_payloads([payload("ann", (3, 0, 1)), payload("bob", (1, 5, 0))])


@pytest.fixture(scope="session")
def tiny_arch(tmp_path_factory):
    """A classifier of a few thousand weights."""
    path = tmp_path_factory.mktemp("arch") / "tiny.json"
    path.write_text(
        '{"model_type": "resnet", "layer_type": "basic", "depths": [1, 1], "embedding_size": 8, '
        '"hidden_sizes": [8, 16], "downsample_in_first_stage": false}'
    )
    return str(path)


@pytest.fixture(scope="session")
def tiny_recipe(random_mini, tmp_path_factory):
    """A recipe of two unguided steps on the torch backend."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(
        f'model = "{random_mini}"\nbackend = "torch"\nimage_size = 32\nunet_batch = 8\nvae_batch = 8\n'
        "[sampling]\nsteps = 2\nguidance_scale = 1.0\n"
    )
    return str(path)
