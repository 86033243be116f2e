"""Moments of features: those of parts add up to those of the whole, and their head tells the classes apart."""

import json

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from playing_clients import grid_of, members_of, playing_app
from small_federation import CLASSES

from fglfast.federation import wire
from fglfast.federation.federation import Federation
from fglfast.federation.moments import (
    COUNTS,
    SQUARES,
    SUMS,
    empty,
    fill_head,
    moments_of,
    of_images,
    outsized,
    sound_moments,
)
from fglfast.images.dataset import read_dataset
from fglfast.training.batches import TrainingData
from fglfast.training.model import build_model, head_of
from fglfast.training.predict import count_right, features


def part(private, rows):
    return TrainingData.of(read_dataset(private).select(rows), 16, 0.0, seed=0)


def test_the_head_of_parts_is_that_of_the_whole_however_they_are_split(model, private):
    """Sorted by label: each client has one class."""
    whole = part(private, np.arange(120))
    parts = [moments_of(model, part(private, rows)) for rows in np.array_split(np.arange(120), 3)]
    assert [own[COUNTS].tolist() for own in parts] == [[40, 0, 0], [0, 40, 0], [0, 0, 40]]
    fill_head(model, [moments_of(model, whole)])
    pooled = head_of(model).weight.clone()
    fill_head(model, parts)
    assert torch.allclose(head_of(model).weight, pooled, atol=1e-4)
    assert count_right(model, whole, whole.train) > 0.8 * 120, "features of random weights tell such classes apart"


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_moments_are_of_what_the_head_of_any_network_is_given(kind, private, tmp_path):
    """ViT's is given one token, DINOv2's that and the mean of the others."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    wide = {"intermediate_size": 64, "mlp_ratio": 2, "initializer_range": 0.3}
    (tmp_path / "tiny.json").write_text(json.dumps({"model_type": kind, **size, **wide}))
    model, whole = build_model(str(tmp_path / "tiny.json"), CLASSES), part(private, np.arange(120))
    fill_head(model, [moments_of(model, whole)])
    assert count_right(model, whole, whole.train) > 0.9 * 120


def test_moments_of_a_resnet_are_of_its_pooled_features(model, private):
    whole = part(private, np.arange(120))
    features_NF, found = features(model, whole.pixels).double(), moments_of(model, whole)
    assert torch.equal(found[SQUARES], features_NF.T @ features_NF)
    assert torch.allclose(found[SUMS][1], features_NF[40:80].sum(0)), "images are sorted by class"


def spoiled(model, private, how):
    found = moments_of(model, part(private, np.arange(120)))
    apart_FF = 1 - torch.eye(len(found[SQUARES]), dtype=torch.float64)
    spoil = {
        "sums": lambda: found[SUMS].fill_(1.7e308),
        "squares": lambda: found[SQUARES].fill_(1.7e308),
        "negative squares": lambda: found[SQUARES].neg_(),
        "counts": lambda: found[COUNTS].fill_(-1e6),
        "half an image": lambda: found[COUNTS].add_(0.5),
        "permuted sums": lambda: found[SUMS].mul_(100),
        "lopsided": lambda: found[SQUARES][0].add_(found[SQUARES].abs().max()),
        "nobody's": lambda: found[COUNTS][0].zero_(),
        "nothing counted": lambda: (found[COUNTS].zero_(), found[SUMS].zero_()),
        "alike": lambda: found[SQUARES].add_(10 * apart_FF),
        "immense off the diagonal": lambda: found[SQUARES].add_(1e300 * apart_FF),
    }
    spoil.get(how, lambda: None)()
    return RecordDict({wire.ARRAYS: wire.weights_record(found)}), found


@pytest.mark.parametrize(
    "how",
    [
        *("sums", "squares", "negative squares", "counts", "half an image", "permuted sums", "lopsided", "nobody's"),
        *("nothing counted", "alike", "immense off the diagonal"),
    ],
)
def test_moments_of_no_images_are_refused(model, private, how):
    form = empty(head_of(model))
    content, honest = spoiled(model, private, "")
    assert all(torch.equal(sound_moments(content, form)[name], value) for name, value in honest.items())
    with pytest.raises(wire.UnfitError):
        sound_moments(spoiled(model, private, how)[0], form)


def test_moments_weigh_no_more_than_the_claim_of_images(model, private):
    found = moments_of(model, part(private, np.arange(120)))
    assert of_images(found, 30)[COUNTS].sum() == 30 and torch.equal(of_images(found, 30)[SUMS], found[SUMS] / 4)
    assert torch.equal(of_images(found, 500)[SQUARES], found[SQUARES])


def test_a_class_that_nobody_holds_is_never_named(model, private):
    fill_head(model, [moments_of(model, part(private, np.arange(80)))])
    images = part(private, np.arange(120))
    assert count_right(model, images, images.train[80:]) == 0
    found = empty(head_of(model))
    features_NF = 30 + 0.1 * torch.randn(100, found[SUMS].shape[1], dtype=torch.float64)
    found[COUNTS][:2] = 50
    found[SUMS][:2] = torch.stack([features_NF[:50].sum(0), features_NF[50:].sum(0)])
    found[SQUARES] += features_NF.T @ features_NF
    fill_head(model, [found])
    assert head_of(model)(torch.zeros(1, len(features_NF[0]))).argmax() < 2, "however low the scores of the others"
    fill_head(model, [empty(head_of(model))])
    assert all(torch.isfinite(weight).all() for weight in head_of(model).parameters())


@pytest.mark.parametrize("factor", [1e3, 1e14])
def test_a_client_whose_features_are_not_the_networks_is_named_and_left_out(factor, experiment, model, private, capsys):
    """Its moments are some that images could have, so that only the others tell."""
    whole = part(private, np.arange(120))
    honest = moments_of(model, whole)
    app = playing_app()

    @app.query("moments")
    def moments(message, context):
        hostile = context.node_config["partition-id"] == 3
        scale = {COUNTS: 1, SUMS: factor, SQUARES: factor**2} if hostile else dict.fromkeys(honest, 1)
        found = {name: scale[name] * value for name, value in honest.items()}
        return Message(RecordDict({wire.ARRAYS: wire.weights_record(found)}), reply_to=message)

    def asked(count):
        members = members_of((120,) * 4)[-count:]
        made = Federation(grid_of(app, 4), members, experiment, 0, CLASSES, model, lambda _: 0.5)
        return made.moments(dict(model.state_dict()))

    found = asked(4)
    assert len(found) == 3 and all(torch.equal(own[SQUARES], honest[SQUARES]) for own in found)
    assert "left out client003" in capsys.readouterr().err
    assert len(asked(2)) == 2, "of two nobody can tell"


def test_what_is_usual_is_told_by_clients_with_images():
    def some(**sizes):
        counted = {who: torch.ones(1) * (size is not None) for who, size in sizes.items()}
        return {who: {COUNTS: counted[who], SQUARES: (size or 0.0) * torch.eye(2)} for who, size in sizes.items()}

    assert list(outsized(some(ann=1.0, bob=2.0, eve=300.0, dan=None, fay=None, gil=None))) == ["eve"]
    assert not outsized(some(ann=1.0, eve=300.0, dan=None)) and not outsized(some(ann=0.0, bob=0.0, eve=300.0))
    assert not outsized(some(dan=None, fay=None, gil=None))
