"""Architectures from files, tried on two images before any is decoded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import fails

from fglfast.base.errors import FglError, UsageError
from fglfast.training import arch_trial, worker
from fglfast.training.arch_trial import check_takes
from fglfast.training.launch import train
from fglfast.training.settings import ARCHITECTURES, TrainSettings

CLASSES = [f"c{number}" for number in range(10)]
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
}
SMALL = {key: value for key, value in VIT.items() if key != "model_type"}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
EFFICIENTNET = {"model_type": "efficientnet", "image_size": 32, "width_coefficient": 0.2, "depth_coefficient": 0.2}
Write = Callable[[dict[str, Any]], str]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(config: dict[str, Any]) -> str:
        (tmp_path / "arch.json").write_text(json.dumps(config))
        return str(tmp_path / "arch.json")

    return write


@pytest.mark.parametrize(
    "config",
    [
        VIT | {"image_size": 32},
        VIT | {"image_size": [32, 32]},
        VIT | {"model_type": "deit", "image_size": 32, "architectures": ["DeiTForImageClassification"]},
        {"model_type": "siglip", "vision_config": SMALL | {"image_size": 32}},
        CONVNEXT,  # takes any size, and its default is 224
    ],
)
def test_what_takes_the_images_passes(written: Write, config: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    check_takes(written(config), CLASSES, 32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (VIT | {"image_size": 64}, "takes images of 64 pixels, not 32"),
        (VIT | {"image_size": [64, 64]}, r"cannot take images of 32 pixels \(Input image size"),
        ({"model_type": "clip", "vision_config": SMALL | {"image_size": 64}}, "cannot take images of 32 pixels"),
        ({"model_type": "siglip", "vision_config": SMALL | {"image_size": 64}}, "cannot take images of 32 pixels"),
        ({"model_type": "mobilevitv2", "image_size": 32}, "cannot take images of 32 pixels"),
        (EFFICIENTNET, "cannot take images of 32 pixels"),
        ({"model_type": "pvt", "image_size": 32}, r"says \[2, 1000\] numbers, not \[2, 10\]"),
        ([1], "not a JSON object"),
    ],
)
def test_what_does_not_take_the_images_is_one_line(written: Write, config: dict[str, Any], words: str) -> None:
    arch = written(config)
    with pytest.raises(UsageError, match=words) as caught:
        check_takes(arch, CLASSES, 32)
    assert arch in caught.value.message and "\n" not in caught.value.message


def test_what_transformers_wants_to_know_of_deit_is_said(written: Write) -> None:
    with pytest.raises(UsageError, match="has no architectures") as caught:
        check_takes(written(VIT | {"model_type": "deit", "image_size": 32}), CLASSES, 32)
    assert '"architectures": ["DeiTForImageClassification"]' in caught.value.hint


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_those_that_are_built_in_take_small_images(arch: str) -> None:
    """They are not tried when training begins."""
    config = arch_trial.config_of(arch, CLASSES)
    assert arch_trial._outputs(config, arch, 8) == [2, 10]


class Counting(nn.Module):
    """A network that looks at values, as none can on the meta device."""

    def forward(self, pixel_values: torch.Tensor) -> Any:
        rows = int(pixel_values.sum()) + len(pixel_values)
        return type("Answer", (), {"logits": torch.zeros(rows, len(CLASSES))})


def test_a_network_that_looks_at_values_is_tried_on_the_cpu(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arch_trial, "classifier_of", lambda *_: Counting())
    check_takes(written(VIT), CLASSES, 32)


def test_no_memory_is_not_the_files_fault(written: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    full = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    monkeypatch.setattr(arch_trial, "classifier_of", fails(full))
    with pytest.raises(RuntimeError, match="allocate memory"):
        check_takes(written(VIT), CLASSES, 32)


def test_it_is_refused_before_an_image_is_decoded_and_may_be_mended(
    written: Write, tmp_path: Path, synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "share_decoded", fails(FglError("decodes")))
    settings = TrainSettings(arch=written(VIT | {"image_size": [64, 64]}), epochs=1, batch_size=12)
    with pytest.raises(UsageError, match="cannot take images of 16 pixels"):
        train(synthetic, tmp_path / "model", settings, 1)
    written(VIT | {"image_size": 16})
    with pytest.raises(FglError, match="decodes"):
        train(synthetic, tmp_path / "model", settings, 1)
