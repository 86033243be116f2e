"""Shared fixtures: a random small model, payloads, an engine."""

import numpy as np
import pytest
import torch

from fglfast.merge import merge_payloads
from fglfast.payload import Payload, PayloadHeader


def pytest_collection_modifyitems(items):
    """Tests of real processes that mostly wait come first: the other worker computes meanwhile."""
    items.sort(key=lambda item: "test_deployment" not in item.nodeid)


@pytest.fixture(scope="session")
def random_mini(tmp_path_factory):
    """A model folder in the diffusers layout with random weights, smaller than mini."""
    from fglfast.generator.architecture import (
        MiniSettings,
        build_text_encoder,
        build_tokenizer,
        build_unet,
        build_vae,
        save_pipeline,
    )

    torch.manual_seed(0)
    settings = MiniSettings(unet_channels=(32, 32), vae_channels=(16, 16, 16))
    captions = [f"{name}, dark plain wide" for name in ("t-shirt", "bag", "ankle boot")]
    tokenizer = build_tokenizer(captions, settings.max_tokens)
    folder = tmp_path_factory.mktemp("model") / "random-mini"
    text_encoder = build_text_encoder(settings, tokenizer)
    save_pipeline(folder, build_vae(settings), build_unet(settings), text_encoder, tokenizer)
    (folder / "prompts.json").write_text(
        '{"class_level": "{label}", "instance_level": "{label}, {caption}", "negative": ""}'
    )
    return folder


@pytest.fixture(scope="session")
def narrow(tmp_path_factory):
    """Make the model folder of a Stable Diffusion family, narrow, with random weights."""
    from fglfast.generator.families import random_model

    root = tmp_path_factory.mktemp("families")
    return lambda family: random_model(family, root / family, narrow=True)


@pytest.fixture(scope="session")
def shallow(tmp_path_factory):
    """As `narrow`, with one layer a block and SDXL's transformers two deep: the same modules, soon exported."""
    from fglfast.generator import families

    root = tmp_path_factory.mktemp("shallow")
    depths = {"sdxl": {"transformer_layers_per_block": (1, 1, 2)}}

    def make(family):
        less = {"layers_per_block": 1} | depths.get(family, {})
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(families.UNET_NARROW, family, families.UNET_NARROW[family] | less)
            return families.random_model(family, root / family, narrow=True)

    return make


@pytest.fixture(scope="session")
def recipe():
    from fglfast.engine.recipe import Recipe
    from fglfast.sampler.schedule import Sampling

    return Recipe(
        backend="openvino", image_size=32, unet_batch=8, vae_batch=4, sampling=Sampling(steps=2, guidance_scale=2.0)
    )


@pytest.fixture(scope="session")
def engine(random_mini, recipe, tmp_path_factory):
    from fglfast.engine.build import build_engine

    return build_engine(recipe, random_mini, tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def payload(random_mini):
    """Make a client's class-level payload: (name, counts by class) -> Payload."""
    from fglfast.text_encoder import TextEncoder

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
