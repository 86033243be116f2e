"""The budget, its noise, and what a noisy upload says; known answers from the theorem and from dp-accounting."""

import math
from collections import Counter
from types import SimpleNamespace

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from fglfast.base.errors import UsageError
from fglfast.client import privacy, private_prompts
from fglfast.client.captions import find_captioner
from fglfast.client.embed import embed
from fglfast.client.privacy import Budget, gaussian, noise_scale
from fglfast.client.private_prompts import exact_release, means, private_counts, private_instances, public_prompts
from fglfast.images.attributes import descriptions
from fglfast.images.dataset import read_dataset
from fglfast.payload import load_payload, save_payload

TEMPLATE, NAMES = "{label}, {caption}", ("bag", "dress")
WIDTH = 6


def vector(text):
    return np.random.default_rng(list(text.encode())).standard_normal((1, WIDTH))


class Encoder:
    """A text encoder of random vectors, the same for the same prompt."""

    tokenize = staticmethod(lambda prompts: prompts)
    encode = staticmethod(lambda prompts: np.stack([vector(prompt) for prompt in prompts]))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (8.0, 1e-6), (50.0, 1e-3)])
def test_the_noise_meets_the_exact_condition_with_equality(epsilon, delta):
    """Balle and Wang (arXiv 1805.06530), theorem 8."""
    scale, sensitivity = noise_scale(Budget(epsilon=epsilon, delta=delta), 3.0), 3.0
    half, shift = sensitivity / (2 * scale), epsilon * scale / sensitivity
    found = norm.cdf(half - shift) - math.exp(epsilon + norm.logcdf(-half - shift))
    assert found == pytest.approx(delta, rel=1e-6)


def epsilon_by_accountant(*events):
    accountant = PLDAccountant()
    accountant.compose(dp_accounting.ComposedDpEvent(list(events)))
    return accountant.get_epsilon(1e-5)


def test_the_accountant_agrees_on_uploads_and_on_both_parts_of_a_release():
    three = noise_scale(Budget(epsilon=1.0, uploads=3), 2.0)
    one_upload = dp_accounting.GaussianDpEvent(three / 2.0)
    assert epsilon_by_accountant(one_upload, one_upload, one_upload) == pytest.approx(1.0, abs=2e-3)
    scale = noise_scale(Budget(epsilon=1.0), private_prompts.INSTANCE_SENSITIVITY)
    replaced_by_another_class = dp_accounting.GaussianDpEvent(scale / math.sqrt(2))
    assert epsilon_by_accountant(replaced_by_another_class, replaced_by_another_class) == pytest.approx(1.0, abs=2e-3)


def release(images, clip):
    """Counts and sums of all classes, one vector."""
    parts = []
    for name in NAMES:
        public_AX = np.concatenate([vector(prompt) for prompt in public_prompts(name, TEMPLATE)])
        own = Counter(f"{label}, {caption}" for label, caption in images if label == name)
        parts += [part.ravel() for part in exact_release(own, public_AX, clip, Encoder)]
    return np.concatenate(parts)


image = st.tuples(st.sampled_from(NAMES), st.sampled_from([*descriptions()[:3], "a", "b", "c", "d"]))


@settings(max_examples=40)
@given(st.lists(image, max_size=6), image, image, st.floats(0.05, 20))
def test_one_image_changes_a_release_by_no_more_than_its_noise_is_made_for(others, one, other, clip):
    without, before, after = (release(images, clip) for images in (others, [*others, one], [*others, other]))
    assert np.linalg.norm(before - without) <= math.sqrt(2) + 1e-9
    assert np.linalg.norm(before - after) <= private_prompts.INSTANCE_SENSITIVITY + 1e-9


def test_the_sensitivity_is_reached():
    """Captions that lie on opposite sides of a public prompt, farther away than the clip."""
    public_AX = np.zeros((1, WIDTH))
    sides = {"left": -np.ones((1, WIDTH)), "right": np.ones((1, WIDTH))}
    encoder = SimpleNamespace(tokenize=list, encode=lambda prompts: np.stack([sides[prompt] for prompt in prompts]))
    left, right = (exact_release(Counter([side]), public_AX, 0.5, encoder)[1] for side in sides)
    assert np.linalg.norm(left - right) == pytest.approx(private_prompts.INSTANCE_SENSITIVITY)


def test_noise_is_standard_gaussian_and_never_the_same():
    noise = gaussian(100, 300)
    assert kstest(noise.ravel(), "norm").pvalue > 1e-7
    assert abs(np.mean(noise[:50] * noise[50:])) < 0.05  # parts of one call are independent
    assert not np.array_equal(gaussian(5), gaussian(5))


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_the_farthest_noise_is_finite(byte, monkeypatch):
    monkeypatch.setattr(privacy.os, "urandom", lambda count: byte * count)
    assert 16 < abs(gaussian(1)[0]) < 17  # four draws at 8.2


def test_a_mean_is_whole_with_little_noise_and_nothing_with_much():
    sums, counts = np.full((1, 100), 50.0), np.array([1000.0])
    assert means(sums, counts, 1e-6) == pytest.approx(0.05)
    draws = np.random.default_rng(0).standard_normal((200, 1000))
    for count in (1.0, 10.0, 33.0, 300.0):
        left = np.linalg.norm(means(draws, np.full(200, count), 1.0), axis=1)
        assert left.max() < 0.56  # a half, at counts near the square root of the width


def test_with_a_large_budget_the_rows_are_the_images():
    captions, labels = [descriptions()[0]] * 30 + [descriptions()[5]] * 20, [1] * 50
    rows = private_instances(captions, labels, NAMES, TEMPLATE, Encoder, Budget(epsilon=1e4))
    sent = {
        (int(label), int(count)): row
        for label, count, row in zip(rows.labels, rows.counts, rows.embeddings, strict=True)
        if count > 1
    }
    assert set(sent) == {(1, 30), (1, 20)}
    assert np.allclose(sent[1, 30], vector(f"dress, {descriptions()[0]}"), atol=1e-2)


def test_with_a_small_budget_a_release_has_a_row_that_says_little():
    rows = private_instances(["a"], [0], NAMES, TEMPLATE, Encoder, Budget(epsilon=0.01))
    assert len(rows.labels) >= 1 and (rows.counts >= 1).all() and np.isfinite(rows.embeddings).all()
    counts, said = private_counts(np.array([3, 0]), Budget(epsilon=0.01))
    assert counts.max() >= 1 and said.clip == 0 and said.noise > 100


def test_absent_classes_stand_out_rarely_and_large_ones_always():
    noisy, said = private_counts(np.array([0] * 2000 + [10_000] * 10), Budget(epsilon=1.0))
    assert (noisy[2000:] > 9000).all() and 0.003 < np.mean(noisy[:2000] > 0) < 0.06
    assert noisy[noisy > 0].min() >= 2 * said.noise - 1


@pytest.fixture
def few(tmp_path):
    path = tmp_path / "few.npz"
    images = np.random.default_rng(0).integers(0, 255, (60, 16, 16), dtype=np.uint8)
    np.savez(path, images=images, labels=np.repeat([0, 1], 30), class_names=np.array(NAMES))
    return read_dataset(str(path))


@pytest.mark.parametrize(("level", "send"), [("class", "tokens"), ("instance", "int8"), ("instance", "embeddings")])
def test_a_noisy_payload_says_its_budget_and_survives_its_file(few, random_mini, tmp_path, level, send):
    budget = Budget(epsilon=20.0, uploads=2)
    made = embed(few, "ann", random_mini, level, send, budget=budget)
    save_payload(made, tmp_path / "ann.safetensors")
    read = load_payload(tmp_path / "ann.safetensors")
    assert read.digest() == made.digest() and read.form == send
    stated = read.header.privacy
    assert (stated.epsilon, stated.delta, stated.uploads, stated.unit) == (20.0, 1e-5, 2, "image")
    assert (stated.clip > 0) == (level == "instance")


@pytest.mark.parametrize("budget", [None, Budget(epsilon=20.0)])
def test_under_a_budget_a_captioner_sees_each_image_alone(few, random_mini, budget, monkeypatch):
    asked = []

    def found(name, size, alone):
        asked.append(alone)
        return find_captioner(name, size, alone)

    monkeypatch.setattr("fglfast.client.embed.find_captioner", found)
    embed(few, "ann", random_mini, "instance", budget=budget)
    assert asked == [budget is not None]


@pytest.mark.parametrize("budget", [None, Budget(epsilon=20.0)])
def test_under_a_budget_images_are_read_by_themselves(few, random_mini, budget, monkeypatch):
    asked = []
    monkeypatch.setattr(type(few), "alone", lambda self: asked.append(self) or self)
    embed(few, "ann", random_mini, "instance", budget=budget)
    assert len(asked) == (budget is not None)


def test_classes_that_noise_leaves_out_are_named_to_the_client(few, random_mini, capsys):
    loud = Budget(epsilon=0.001)
    sent = {label: 0 for label in range(2)}
    while sum(map(bool, sent.values())) != 1:  # by chance none or both stand out
        capsys.readouterr()
        made = embed(few, "ann", random_mini, budget=loud)
        sent |= {0: 0, 1: 0} | dict(zip(made.labels.tolist(), made.counts.tolist(), strict=True))
    lost = NAMES[0 if sent[1] else 1]
    assert f"stand out from the noise are left out: {lost}" in " ".join(capsys.readouterr().err.split())


def test_token_ids_and_templates_without_captions_are_refused(few, random_mini):
    with pytest.raises(UsageError, match="token ids"):
        embed(few, "ann", random_mini, "instance", "tokens", budget=Budget(epsilon=1.0))
    with pytest.raises(UsageError, match="the same for all captions"):
        embed(few, "ann", random_mini, "instance", template="{label}", budget=Budget(epsilon=1.0))


def test_prompts_without_a_class_cannot_carry_noise():
    with pytest.raises(UsageError, match="says no class"):
        private_instances(["a"], [0], NAMES, "{caption}, sketch", Encoder, Budget(epsilon=1.0))


def test_the_guide_says_what_noise_for_one_image_leaves_of_ten():
    """docs/privacy.md: epsilon 31 for ten images of one person; the noise of `--uploads` 100 brings 2 back."""

    def delta(epsilon, times, sigma):  # of a Gaussian whose sum changes by so many images (arXiv 1805.06530)
        shift = times / sigma
        return norm.cdf(shift / 2 - epsilon / shift) - math.exp(epsilon) * norm.cdf(-shift / 2 - epsilon / shift)

    one, hundred = (noise_scale(Budget(epsilon=2.0, delta=1e-6, uploads=uploads), 1.0) for uploads in (1, 100))
    assert delta(30.5, 10, one) > 1e-6 > delta(31, 10, one)
    assert delta(2.0, 10, hundred) == pytest.approx(1e-6, rel=1e-3)
