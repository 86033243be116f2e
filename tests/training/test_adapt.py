"""A model fitted to a client: what changes, what stays, what is refused."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from shard_samples import CLASSES, SIZE, picture
from training_runs import fails
from typer.testing import CliRunner

from fglfast.images.labelled import LabelledImages
from fglfast.training import adapt as module
from fglfast.training.adapt import PLAINLY, ChosenLayer, _tempered, adapt, choose, draw_shots
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.opta import ABSENT, Delivered, Head, Seen
from fglfast.training.prototypes import PROTOTYPES, SPREAD
from fglfast.training.run_folder import SAVED
from fglfast.training.settings import AdaptSettings, TrainSettings
from fglfast.verbs.app import app

WIDTH = 8
CENTRES_KF = 5 * torch.eye(WIDTH, dtype=torch.float64)[:3]
TRAINED = Head(CENTRES_KF, -0.5 * CENTRES_KF.square().sum(1))
DELIVERED = Delivered(CENTRES_KF, torch.ones(3, dtype=torch.bool), float(WIDTH))


def client(shots: int, shift: torch.Tensor | float, labels: tuple[int, ...] = (0, 1, 2), seed: int = 0) -> Seen:
    """Gaussian classes around the delivered prototypes, or moved away."""
    generator = torch.Generator().manual_seed(seed)
    labels_S, labels_U = torch.tensor(labels).repeat(shots), torch.tensor(labels).repeat(50)
    around = [
        CENTRES_KF[of] + shift + torch.randn(len(of), WIDTH, generator=generator).double()
        for of in (labels_S, labels_U)
    ]
    share_K = torch.zeros(3, dtype=torch.float64).index_fill(0, torch.tensor(labels), 1 / len(labels))
    return Seen(around[0], labels_S, around[1], share_K)


def chosen(seen: Seen) -> ChosenLayer:
    return choose(TRAINED, DELIVERED, seen)


SHIFT = 10 * (CENTRES_KF[0] - CENTRES_KF[1] - CENTRES_KF[2])  # all look like class 0


@pytest.mark.parametrize("shots", [3, 5, 20])
def test_a_shift_is_answered_by_a_new_layer_that_names_what_the_trained_one_did_not(shots: int) -> None:
    seen = client(shots, SHIFT)
    choice = chosen(seen)
    assert choice.layer != "trained" and choice.head is not None
    assert choice.before == pytest.approx(1 / 3) and choice.after is not None and choice.after > 0.9
    again = client(100, SHIFT, seed=1)
    assert (choice.head(again.shots_SF).argmax(1) == again.labels_S).double().mean() > 0.95


@pytest.mark.parametrize("shots", [1, 2, 5, 20])
def test_without_a_shift_the_trained_layer_stays(shots: int) -> None:
    for seed in range(5):
        assert chosen(client(shots, 0.0, seed=seed)) == ChosenLayer("trained", None, 1.0, None if shots == 1 else 1.0)


def test_with_one_shot_a_class_the_trained_layer_goes_only_where_it_is_plainly_wrong() -> None:
    wrong = Head(TRAINED.weight_KF[[1, 2, 0]], TRAINED.bias_K[[1, 2, 0]])
    assert choose(wrong, DELIVERED, client(1, 0.0)).layer == "moved", "all three of three"
    assert PLAINLY >= 1 and choose(wrong, DELIVERED, client(1, 0.0, labels=(0,))).layer == "trained", "one of one"


def test_a_client_of_one_class_is_fitted_and_keeps_the_others() -> None:
    choice = chosen(client(5, SHIFT, labels=(1,)))
    assert choice.head is not None and choice.before == 0 and choice.after == 1
    unmoved = client(50, 0.0, labels=(2,))
    assert (choice.head(unmoved.shots_SF).argmax(1) == 2).double().mean() > 0.9, "of a class that it lacks"


def test_a_new_layer_is_no_surer_than_it_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    labels_S = torch.arange(3).repeat(40)
    blurred = 0.3 * CENTRES_KF[labels_S] + SHIFT + torch.randn(120, WIDTH, generator=generator).double()
    choice = chosen(Seen(blurred, labels_S, blurred[:0], torch.full((3,), 1 / 3, dtype=torch.float64)))
    assert choice.head is not None and choice.after is not None
    sure = choice.head(blurred).softmax(1).max(1).values.mean().item()
    assert sure == pytest.approx(choice.after, abs=0.1)


def test_one_shot_of_a_class_that_nothing_else_is_known_of_does_not_make_a_layer_unsure() -> None:
    """Without its shot, no layer can name it: that tells nothing of how sure one is of the others."""
    delivered = Delivered(CENTRES_KF, torch.tensor([True, True, False]), float(WIDTH))
    seen = client(40, SHIFT, labels=(0, 1))
    plain = choose(TRAINED, delivered, seen)
    last = CENTRES_KF[2:] + SHIFT
    share_K = torch.tensor([0.495, 0.495, 0.01], dtype=torch.float64)
    more = Seen(torch.cat([seen.shots_SF, last]), torch.cat([seen.labels_S, torch.tensor([2])]), last[:0], share_K)
    choice = choose(TRAINED, delivered, more)
    assert plain.head is not None and choice.head is not None and choice.after is not None
    test = client(100, SHIFT, labels=(0, 1), seed=1).shots_SF
    unsure, sure = (head(test).softmax(1).amax(1).mean().item() for head in (choice.head, plain.head))
    assert unsure == pytest.approx(sure, abs=0.05)
    assert choice.head(last).argmax() == 2


def test_a_layer_that_no_shot_can_judge_is_left_as_sure_as_it_is() -> None:
    head, labels_S = Head(CENTRES_KF, torch.zeros(3, dtype=torch.float64)), torch.tensor([2])
    found = _tempered(head, torch.tensor([[1.0, 2.0, ABSENT]], dtype=torch.float64), labels_S)
    assert torch.equal(found.weight_KF, head.weight_KF) and torch.equal(found.bias_K, head.bias_K)


def test_shots_are_as_many_as_asked_and_the_others_are_none_of_them() -> None:
    labels = np.repeat([0, 2], [30, 3])
    rows = np.arange(1, 33)
    shots = draw_shots(labels, rows, 4, AdaptSettings(shots=5))
    assert np.bincount(labels[shots.labelled]).tolist() == [5, 0, 3]
    assert not set(shots.labelled) & set(shots.others) and set(shots.labelled) | set(shots.others) == set(rows)
    assert shots.share.tolist() == pytest.approx([29 / 32, 0, 3 / 32, 0])
    assert np.array_equal(shots.labelled, draw_shots(labels, rows, 4, AdaptSettings(shots=5)).labelled)


# A saved model, from the command line.


@pytest.fixture(scope="module")
def model(synthetic: Path, tiny_arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TrainSettings(arch=tiny_arch, epochs=12, batch_size=16, learning_rate=1e-2, erasing=0.0, flip=False)
    return train(synthetic, tmp_path_factory.mktemp("trained") / "model", settings).model


def mine(per_class: int, inverted: bool = True, names: tuple[str, ...] = CLASSES, first: int = 100) -> LabelledImages:
    """The classes of the synthetic images, each image inverted."""
    labels = np.tile(np.arange(len(names)), per_class)
    pixels = [picture(CLASSES.index(names[label]), first + place) for place, label in enumerate(labels)]
    images = [Image.fromarray(255 - one if inverted else one) for one in pixels]
    return LabelledImages(names, labels, tuple(partial(lambda image: image, image) for image in images), (), "mine")


def saved(folder: Path, images: LabelledImages) -> str:
    pixels = np.stack([images.pixels(row, SIZE) for row in range(len(images))])
    np.savez(folder / "mine.npz", images=pixels, labels=images.labels, class_names=np.array(images.class_names))
    return str(folder / "mine.npz")


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_training_leaves_prototypes_and_a_fitted_model_is_one_that_evaluate_reads(model: Path, tmp_path: Path) -> None:
    assert (model / PROTOTYPES).exists()
    done = run("adapt", model, saved(tmp_path, mine(20)), "--out", tmp_path / "fitted", "--shots", 10, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    test = mine(40, first=500)
    before, after = evaluate(model, test).accuracy, evaluate(tmp_path / "fitted", test).accuracy
    assert said["layer"] != "trained" and said["shots"] == 30 and said["others"] == 30 and said["classes"] == 3
    assert after > before + 0.1 and said["after"] > said["before"]
    from transformers import AutoModelForImageClassification

    loaded: Any = AutoModelForImageClassification.from_pretrained(tmp_path / "fitted")
    assert loaded.config.id2label == dict(enumerate(CLASSES))
    assert (tmp_path / "fitted" / PROTOTYPES).read_bytes() == (model / PROTOTYPES).read_bytes()


def test_images_like_the_synthetic_ones_leave_the_model_as_it_is(model: Path, tmp_path: Path) -> None:
    found = adapt(model, mine(10, inverted=False), tmp_path / "fitted", AdaptSettings())
    assert found.layer == "trained" and found.before > 0.9
    assert (tmp_path / "fitted" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_kill_leaves_no_prototypes_beside_another_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "fitted", shutil.copytree(model, tmp_path / "other")
    adapt(model, mine(2), out, AdaptSettings())
    (other / PROTOTYPES).write_bytes(save({**load((other / PROTOTYPES).read_bytes()), SPREAD: torch.tensor(2.0)}))
    monkeypatch.setattr(module, "save_model", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        adapt(other, mine(2), out, AdaptSettings())
    assert (out / "model.safetensors").exists() and not (out / PROTOTYPES).exists()


def test_images_without_labels_may_lie_elsewhere(model: Path, tmp_path: Path) -> None:
    others = mine(7, first=300)
    found = adapt(model, mine(4), tmp_path / "fitted", AdaptSettings(shots=2), others)
    assert (found.shots, found.others) == (6, 21)
    (tmp_path / "flat").mkdir()
    for row in range(len(others)):
        others.image(row).save(tmp_path / "flat" / f"{row}.png")
    own = saved(tmp_path, mine(4))
    said = run("adapt", model, own, "--out", tmp_path / "again", "--unlabelled", tmp_path / "flat", "--json")
    assert said.exit_code == 0 and json.loads(said.stdout)["others"] == 21, said.output


@pytest.mark.parametrize("shots", [0, -1])
def test_no_shots_are_refused(shots: int, model: Path, tmp_path: Path) -> None:
    done = run("adapt", model, saved(tmp_path, mine(2)), "--out", tmp_path / "fitted", "--shots", shots)
    assert done.exit_code == 2 and not (tmp_path / "fitted").exists()


def test_a_class_that_the_model_lacks_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    images = mine(2)
    other = LabelledImages((*CLASSES[:2], "a zebra"), images.labels, images.openers, (), "mine")
    done = run("adapt", model, saved(tmp_path, other), "--out", tmp_path / "fitted")
    assert done.exit_code == 4 and "zebra" in done.stderr and not (tmp_path / "fitted").exists()


def test_a_model_without_prototypes_takes_them_from_the_images_that_it_learned_from(
    model: Path, synthetic: Path, tmp_path: Path
) -> None:
    bare, data = tmp_path / "bare", saved(tmp_path, mine(6))
    bare.mkdir()
    for name in SAVED:
        (bare / name).write_bytes((model / name).read_bytes())
    done = run("adapt", bare, data, "--out", tmp_path / "fitted")
    assert done.exit_code == 4 and "--prototypes" in done.stderr
    assert run("adapt", bare, data, "--out", tmp_path / "fitted", "--prototypes", synthetic).exit_code == 0
    assert (tmp_path / "fitted" / PROTOTYPES).exists()


def test_no_other_model_is_overwritten(model: Path, tmp_path: Path) -> None:
    data, weights = saved(tmp_path, mine(2)), (model / "model.safetensors").read_bytes()
    assert run("adapt", model, data, "--out", model).exit_code == 2
    assert (model / "model.safetensors").read_bytes() == weights
    for _ in range(2):  # one that adapt made may be made anew
        assert run("adapt", model, data, "--out", tmp_path / "fitted").exit_code == 0
    assert run("adapt", tmp_path / "fitted", data, "--out", tmp_path / "fitted").exit_code == 2


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_a_file_of_ones_own_stays(name: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("my own")
    done = run("adapt", model, saved(tmp_path, mine(2)), "--out", tmp_path / "out")
    assert done.exit_code == 2 and (tmp_path / "out" / name).read_text() == "my own", done.output
