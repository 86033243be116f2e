"""What a model is delivered with: means of features, computed where it is trained, checked where it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from shard_samples import CLASSES, SIZE
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from fglfast.base.errors import BadInputError
from fglfast.training.model import build_model, head_of, linear_head
from fglfast.training.predict import predict
from fglfast.training.prototypes import (
    COUNTS,
    MEANS,
    PROTOTYPES,
    SPREAD,
    head_inputs,
    load_prototypes,
    prototypes_of,
    save_prototypes,
    synthetic_prototypes,
)


@pytest.fixture
def model(tiny_arch: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return build_model(tiny_arch, CLASSES)


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_what_the_head_is_given_times_the_head_is_what_the_model_says(kind: str, model: PreTrainedModel) -> None:
    small: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vit = ViTForImageClassification(ViTConfig(image_size=SIZE, patch_size=8, num_labels=3, **small))
    chosen: Any = model if kind == "resnet" else vit
    pixels = pictures(5)
    with torch.no_grad():
        said = head_of(chosen)(head_inputs(chosen, pixels))
    assert torch.allclose(said, predict(chosen, pixels), atol=1e-5)


def test_means_counts_and_spread_are_those_worked_out(model: PreTrainedModel) -> None:
    pixels, labels = pictures(6), torch.tensor([2, 0, 0, 2, 2, 0])
    features_NF = head_inputs(model, pixels)
    found = prototypes_of(model, pixels, labels)
    assert found.counts_K.tolist() == [3, 0, 3] and found.means_KF[1].eq(0).all()
    assert torch.allclose(found.means_KF[2], features_NF[[0, 3, 4]].mean(0), atol=1e-5)
    apart = features_NF - found.means_KF[labels]
    assert found.spread.item() == pytest.approx(apart.square().sum(1).mean().item(), rel=1e-4)
    none = prototypes_of(model, pixels, labels, rows=np.arange(0))
    assert none.counts_K.sum() == 0 and none.means_KF.eq(0).all()


def test_they_are_read_as_they_were_written_and_nothing_is_read_where_nothing_is(
    model: PreTrainedModel, synthetic: Path, tmp_path: Path
) -> None:
    assert load_prototypes(tmp_path, model) is None
    made = synthetic_prototypes(model, synthetic, SIZE)
    assert made.counts_K.tolist() == [40, 40, 40]
    save_prototypes(made, tmp_path)
    read = load_prototypes(tmp_path, model)
    assert read is not None
    assert all(torch.equal(read.tensors()[name], tensor) for name, tensor in made.tensors().items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found | {MEANS: found[MEANS][:2]},
        lambda found: found | {MEANS: found[MEANS].double()},
        lambda found: found | {MEANS: found[MEANS] * float("nan")},
        lambda found: found | {MEANS: found[MEANS] + 1e30},
        lambda found: found | {COUNTS: found[COUNTS] - 100},
        lambda found: found | {SPREAD: found[SPREAD] * float("inf")},
        lambda found: found | {SPREAD: -found[SPREAD] - 1},
        lambda found: found | {"more": found[SPREAD].clone()},
        lambda found: {MEANS: found[MEANS]},
    ],
)
def test_what_is_not_this_models_or_not_finite_is_refused(
    spoil: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], model: PreTrainedModel, tmp_path: Path
) -> None:
    tensors = spoil(prototypes_of(model, pictures(6), torch.arange(6) % 3).tensors())
    (tmp_path / PROTOTYPES).write_bytes(safetensors.torch.save(tensors))
    with pytest.raises(BadInputError, match="prototypes"):
        load_prototypes(tmp_path, model)


def test_a_damaged_file_is_refused(model: PreTrainedModel, tmp_path: Path) -> None:
    (tmp_path / PROTOTYPES).write_bytes(b"no safetensors")
    with pytest.raises(BadInputError, match="prototypes"):
        load_prototypes(tmp_path, model)


def test_images_of_other_classes_are_refused(tiny_arch: str, synthetic: Path) -> None:
    other = build_model(tiny_arch, ["ant", "bee", "cow"])
    with pytest.raises(BadInputError, match="classes"):
        synthetic_prototypes(other, synthetic, SIZE)


def test_a_head_that_is_not_linear_is_told(model: PreTrainedModel) -> None:
    assert linear_head(model)
    head = head_of(model)
    head.bias = None  # type: ignore[assignment]
    assert not linear_head(model)
    with pytest.raises(BadInputError, match="last layer"):
        head_of(model)
