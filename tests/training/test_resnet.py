"""Trained ResNets read without transformers, beside what transformers reads."""

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from PIL import Image
from shard_samples import change_json
from transformers import ResNetConfig, ResNetForImageClassification

from fglfast.base.errors import BadInputError
from fglfast.training.model import build_model, load_model, save_model
from fglfast.training.resnet import read_resnet
from fglfast.training.results import WEIGHTS
from fglfast.training.settings import ARCHITECTURES

NAMES = ("ant", "bee", "cow")
ODD = {
    "bottlenecks": {"layer_type": "bottleneck", "hidden_sizes": [32, 48], "depths": [2, 1]},
    "halved in their first convolution": {
        "layer_type": "bottleneck",
        "hidden_sizes": [32, 32],
        "depths": [1, 2],
        "downsample_in_bottleneck": True,
    },
    "halved in the first stage": {
        "layer_type": "basic",
        "hidden_sizes": [16, 24, 24],
        "depths": [2, 1, 1],
        "downsample_in_first_stage": True,
    },
}


def used(network):
    """With statistics that are not those of fresh weights."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return network


def same(folder):
    network, names = read_resnet(folder)
    expected, known = load_model(folder)
    images = torch.randn(3, 3, 40, 40).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(network.eval()(images).logits, expected.eval()(pixel_values=images).logits)
    return names == known


@pytest.mark.parametrize("arch", [name for name in ARCHITECTURES if name.startswith("resnet")])
def test_what_train_makes_says_the_same_to_the_bit(arch, tmp_path):
    save_model(used(build_model(arch, NAMES)), tmp_path, 40)
    assert same(tmp_path)


@pytest.mark.parametrize("kind", ODD)
def test_others_models_say_the_same_to_the_bit(kind, tmp_path):
    config = ResNetConfig(embedding_size=16, id2label=dict(enumerate(NAMES)), **ODD[kind])
    used(ResNetForImageClassification(config)).save_pretrained(tmp_path)
    assert same(tmp_path)


@pytest.fixture
def folder(tmp_path, tiny_arch):
    save_model(build_model("resnet10-tiny", NAMES), tmp_path / "model", 16)
    return tmp_path / "model"


def test_what_is_not_plainly_one_is_left_to_transformers(folder, tmp_path):
    assert read_resnet(folder)
    save_model(build_model("bit14-tiny", NAMES), tmp_path / "bit", 16)
    assert read_resnet(tmp_path / "bit") is None
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    for others in (
        {name: tensor.bfloat16() for name, tensor in weights.items()},
        {name: tensor for name, tensor in weights.items() if name != "classifier.1.bias"},
        weights | {"classifier.2.bias": torch.zeros(3)},
    ):
        safetensors.torch.save_file(others, folder / WEIGHTS)
        assert read_resnet(folder) is None
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    for keys in ({"hidden_act": "gelu"}, {"num_channels": 1}, {"id2label": {"0": "ant", "7": "bee", "2": "cow"}}):
        before = (folder / "config.json").read_text()
        change_json(folder / "config.json", **keys)
        assert read_resnet(folder) is None
        (folder / "config.json").write_text(before)
    assert read_resnet(folder)


def test_more_than_its_weights_fill_is_refused_unbuilt(folder):
    change_json(folder / "config.json", hidden_sizes=[1 << 20] * 4)
    with pytest.raises(BadInputError, match="more elements than its weights fill"):
        read_resnet(folder)


def test_a_torn_file_is_named(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInputError, match="model"):
        read_resnet(folder)


def test_evaluate_imports_no_transformers(folder, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from fglfast.images.dataset import read_dataset\n"
        "from fglfast.training.evaluate import evaluate\n"
        "found = evaluate(Path(sys.argv[1]), read_dataset(sys.argv[2]))\n"
        "print(found.accuracy); sys.exit('transformers' in sys.modules)"
    )

    for name in NAMES:
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), "red").save(tmp_path / "images" / name / "a.png")
    run = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "images"], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert 0 <= float(run.stdout) <= 1
