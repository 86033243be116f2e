"""A flow of labels: what is best to say is known where classes are Gaussian; and its files."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from reference import KilledError
from test_pretrain import SMALL

from fglfast.base.errors import BadInputError
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.label_flow import (
    CONFIG,
    FOLDER,
    LabelFlow,
    LabelledLatents,
    load_label_flow,
    loss,
    probabilities,
    save_label_flow,
    train_label_flow,
)
from fglfast.generator.learning.pretrain import pretrain
from fglfast.images.dataset import read_dataset

SHAPE, CLASSES, WIDTH = (2, 2, 2), 3, 1.0
FAST = FitSettings(steps=6, batch_size=4, learning_rate=1e-3, warmup_steps=2)


@pytest.fixture(scope="module")
def gaussians():
    """Latents of three classes, N(means[k], WIDTH^2), with the classes and the posterior of each [N,K]."""
    draws = torch.Generator().manual_seed(0)
    means = 0.6 * torch.randn(CLASSES, *SHAPE, generator=draws)
    labels = torch.randint(CLASSES, (4000,), generator=draws)
    latents = means[labels] + WIDTH * torch.randn(4000, *SHAPE, generator=draws)
    distances = (latents[:, None] - means).square().flatten(2).sum(2) / (2 * WIDTH**2)
    return latents, labels, (-distances).softmax(1)


def given(latents, labels):
    moments = torch.stack([latents, torch.zeros_like(latents)], dim=1)
    return LabelledLatents(moments, labels, 1.0, ("bag", "coat", "shoe"))


def test_the_best_velocity_gives_the_posterior_in_one_step(gaussians):
    latents, _, posterior = gaussians

    def best(x, y, t):
        assert not t.any() and torch.equal(x, latents)
        return posterior - y

    assert torch.allclose(probabilities(best, latents, CLASSES).float(), posterior, atol=1e-5)


def test_it_learns_the_posterior(gaussians, tmp_path):
    latents, labels, posterior = gaussians
    fit = FitSettings(steps=250, batch_size=128, learning_rate=2e-3, ema_decay=0.95, warmup_steps=10)
    flow = train_label_flow(given(latents, labels), fit, tmp_path)
    said = probabilities(flow, latents, CLASSES).float()
    assert (said - posterior).abs().mean() < 0.08
    assert (said.argmax(1) == posterior.argmax(1)).float().mean() > 0.9


def test_the_loss_is_least_for_what_is_best_to_say():
    """Of labels that the image settles: the network need only take the noise from the label that it is given."""
    latents, labels = torch.zeros(64, *SHAPE), torch.zeros(64, dtype=torch.long)
    right = torch.tensor([[1.0, 0.0, 0.0]])

    def best(x, y, t):
        return right - (y - t[:, None] * right) / (1 - t[:, None])

    draws = torch.Generator().manual_seed(0)
    assert loss(best, latents, labels, CLASSES, draws) < 1e-6 < loss(lambda x, y, t: y, latents, labels, CLASSES, draws)


@pytest.mark.parametrize("side", [3, 4, 8, 12, 32])
def test_any_size_of_latents(side):
    flow = LabelFlow(8, side, 5)
    assert flow(torch.zeros(2, 8, side, side), torch.zeros(2, 5), torch.zeros(2)).shape == (2, 5)


def test_a_generator_is_the_same_with_a_label_flow_and_diffusers_loads_it(tmp_path, monkeypatch):
    data = read_dataset("fashion:private").select(range(0, 5000, 250))
    plain = pretrain(data, tmp_path / "run", SMALL)
    before = weights_fingerprint(plain)
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    asked = SMALL.model_copy(update={"labels": FAST})
    assert not (plain / FOLDER).exists() and FOLDER not in (plain / "README.md").read_text()
    with_labels = pretrain(data, tmp_path / "whole", asked)
    assert weights_fingerprint(with_labels) == before and FOLDER in (with_labels / "README.md").read_text()
    pipeline = StableDiffusionPipeline.from_pretrained(with_labels)
    assert pipeline.unet is not None
    flow, names = load_label_flow(with_labels)
    assert names == data.class_names

    one_step = Fit._one_step

    def dying(self, loss_function):
        if self.step == 3:
            self.save()
            raise KilledError
        return one_step(self, loss_function)

    monkeypatch.setattr(Fit, "_one_step", dying)
    with pytest.raises(KilledError):
        pretrain(data, tmp_path / "run", asked)
    monkeypatch.setattr(Fit, "_one_step", one_step)
    resumed, _ = load_label_flow(pretrain(data, tmp_path / "run", asked))
    assert all(torch.equal(one, other) for one, other in zip(flow.parameters(), resumed.parameters(), strict=True))


@pytest.fixture
def model(tmp_path):
    save_label_flow(LabelFlow(8, 8, 2), ("bag", "shoe"), (8, 8, 8), tmp_path)
    return tmp_path


def test_what_is_saved_is_loaded(model):
    flow, names = load_label_flow(model)
    assert names == ("bag", "shoe") and flow.classes == 2
    assert np.isfinite(probabilities(flow, torch.zeros(1, 8, 8, 8), 2).numpy()).all()


@pytest.mark.parametrize(
    "change", [{"class_names": []}, {"class_names": ["bag"]}, {"side": 10**9}, {"channels": "eight"}, {"channels": 4}]
)
def test_a_damaged_one_is_refused(model, change):
    path = model / FOLDER / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError):
        load_label_flow(model)


def test_a_generator_without_one_is_refused(random_mini):
    with pytest.raises(BadInputError, match="no label flow"):
        load_label_flow(random_mini)
