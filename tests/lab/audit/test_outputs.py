"""Confidences against what the model itself says."""

import numpy as np
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from fglfast.lab.audit.outputs import confidences
from fglfast.training.augment import normalise


def classifier():
    torch.manual_seed(0)
    config = ResNetConfig(layer_type="basic", depths=[1, 1], embedding_size=8, hidden_sizes=[8, 16], num_labels=3)
    return ResNetForImageClassification(config).eval()


def test_confidences_are_log_odds_and_fall_as_the_loss_rises():
    model, labels = classifier(), np.arange(300) % 3
    pixels = torch.randint(0, 256, (300, 3, 8, 8), dtype=torch.uint8)
    said = confidences(model, pixels, labels)
    with torch.inference_mode():
        logits = model(pixel_values=normalise(pixels)).logits.double()
    p = logits.softmax(1)[torch.arange(300), torch.from_numpy(labels)].numpy()
    assert np.allclose(said, np.log(p / (1 - p)), atol=1e-4)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="none").numpy()
    assert np.array_equal(np.argsort(said), np.argsort(-loss))


def test_of_a_single_class_nothing_can_be_told():
    config = ResNetConfig(layer_type="basic", depths=[1], embedding_size=8, hidden_sizes=[8], num_labels=1)
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    said = confidences(ResNetForImageClassification(config).eval(), pixels, np.zeros(5, np.int64))
    assert said.tolist() == [0.0] * 5


def test_certainty_is_not_rounded_to_infinity():
    model = classifier()
    with torch.no_grad():
        model.classifier[1].bias[0] += 500.0
    said = confidences(model, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.array([0, 1]))
    assert 450 < said[0] < 550 and -550 < said[1] < -450
