"""A network asked in batches against the same network asked at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shard_samples import images_of
from transformers import ResNetConfig, ResNetForImageClassification, SiglipConfig, SiglipForImageClassification

from fglfast.base.errors import BadInputError
from fglfast.training.augment import normalise
from fglfast.training.batches import TrainingData, batches
from fglfast.training.predict import count_right, features, features_and_logits, judge_rows, predict

CPU = torch.device("cpu")


def classifier() -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(layer_type="basic", depths=[1, 1], embedding_size=8, hidden_sizes=[8, 16], num_labels=3)
    return ResNetForImageClassification(config)


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)


def said_at_once(model: ResNetForImageClassification, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(pixel_values=normalise(pixels)).logits


def test_features_are_what_the_last_layer_sees() -> None:
    model, pixels = classifier(), pictures(5)
    expected = said_at_once(model, pixels)
    with torch.no_grad():
        assert torch.allclose(model.classifier[1](features(model, pixels)), expected, atol=1e-5)


def test_features_and_logits_are_had_at_one_look() -> None:
    model, pixels = classifier(), pictures(300)
    seen, said = features_and_logits(model, pixels)
    assert torch.equal(seen, features(model, pixels)) and torch.equal(said, predict(model, pixels))
    assert not model.base_model._forward_hooks


@pytest.mark.parametrize("last", [True, False])
def test_a_classifier_without_a_base_model_is_watched_at_its_last_layer(last: bool) -> None:
    torch.manual_seed(0)
    side = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "intermediate_size": 16}
    config = SiglipConfig(vision_config=side | {"num_hidden_layers": 1, "num_attention_heads": 2}, num_labels=3)
    model, pixels = SiglipForImageClassification(config), pictures(5)
    assert model.base_model is model
    if not last:
        model.classifier = torch.nn.Identity()
        with pytest.raises(BadInputError, match="not linear"):
            features(model, pixels)
        return
    seen, said = features_and_logits(model, pixels)
    assert torch.equal(seen, features(model, pixels)) and torch.equal(said, predict(model, pixels))
    with torch.no_grad():
        assert torch.allclose(model.classifier(seen), said, atol=1e-5)
    assert not model.classifier._forward_pre_hooks


def test_batches_and_rows_do_not_change_what_is_said() -> None:
    model, pixels = classifier(), pictures(11)
    expected, rows = said_at_once(model, pixels), np.array([7, 0, 10, 3, 4])
    assert torch.allclose(predict(model, pixels, batch_size=4), expected, atol=1e-5)
    assert torch.allclose(predict(model, pixels, rows, batch_size=2), expected[rows], atol=1e-5)
    assert not model.training


def test_loss_and_right_answers_of_rows_and_of_none() -> None:
    model, pixels, rows = classifier(), pictures(9), np.arange(2, 9)
    labels = torch.arange(9) % 3
    data, logits = TrainingData(pixels, labels, 8, rows, rows[:0]), said_at_once(model, pixels)[2:]
    loss, right = judge_rows(model, data, rows, batch_size=3)
    assert np.isclose(loss, 7 * torch.nn.functional.cross_entropy(logits, labels[2:]).item(), rtol=1e-5)
    assert right == count_right(model, data, rows) == int((logits.argmax(1) == labels[2:]).sum())
    assert judge_rows(model, data, rows[:0]) == (0.0, 0)


def test_images_read_ahead_of_time_are_the_same_in_the_same_order(synthetic: Path) -> None:
    read = images_of(synthetic)
    parts = np.array_split(np.random.default_rng(0).permutation(len(read)), 9)
    kept = list(batches(images_of(synthetic)[range(len(read))], parts, CPU))
    assert all(torch.equal(*pair) for pair in zip(kept, batches(read, parts, CPU), strict=True))
    assert [len(images) for images in kept] == [len(part) for part in parts]


def test_asking_draws_nothing(synthetic: Path) -> None:
    model, before = classifier(), torch.random.get_rng_state()
    predict(model, images_of(synthetic))
    assert torch.equal(before, torch.random.get_rng_state())
