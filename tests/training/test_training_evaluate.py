"""Evaluation against figures worked out by hand."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from shard_samples import change_json
from training_runs import fails
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.images.folder_names import folder_names, write_names
from fglfast.images.labelled import LabelledImages
from fglfast.training import evaluate as module
from fglfast.training import model
from fglfast.training.augment import normalise
from fglfast.training.evaluate import evaluate, open_classifier
from fglfast.training.model import build_model, load_model, save_model, write_weights
from fglfast.training.opta import ABSENT
from fglfast.training.preprocessing import PROCESSOR
from fglfast.training.results import WEIGHTS
from fglfast.verbs.app import app


def images(class_names: tuple[str, ...], labels: list[int]) -> LabelledImages:
    """Grey images, each another grey."""
    openers = tuple(partial(Image.new, "RGB", (16, 16), (10 * n % 256,) * 3) for n in range(len(labels)))
    return LabelledImages(class_names, np.array(labels, dtype=np.int64), openers, (), "greys")


@pytest.fixture
def model_dir(tmp_path: Path, tiny_arch: str) -> Path:
    torch.manual_seed(0)
    save_model(build_model(tiny_arch, ["ant", "bee", "cow"]), tmp_path / "model", 16)
    return tmp_path / "model"


def test_hand_worked_case(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The data order its classes cow, ant; the model ant, bee, cow. Named: ant, ant, bee, cow.
    named = torch.tensor([0, 0, 1, 2])
    confidence = torch.tensor([0.9, 0.6, 0.6, 0.8])
    rows = torch.log((1 - confidence) / 2)[:, None].repeat(1, 3)
    rows[torch.arange(4), named] = torch.log(confidence)
    monkeypatch.setattr(module, "predict", lambda *_, **__: rows)
    found = evaluate(model_dir, images(("cow", "ant"), [1, 0, 1, 0]))
    assert found.class_names == ("ant", "bee", "cow")
    assert found.confusion == ((1, 1, 0), (0, 0, 0), (1, 0, 1))
    assert found.accuracy == 0.5 and found.n == 4
    assert {name: (entry.accuracy, entry.n) for name, entry in found.per_class.items()} == {
        "ant": (0.5, 2),
        "bee": (None, 0),
        "cow": (0.5, 2),
    }
    assert found.loss == pytest.approx(-np.log([0.9, 0.2, 0.2, 0.8]).mean(), rel=1e-5)
    # Bins of a fifteenth: 0.9 and 0.8 lie alone and are right, the two at 0.6 share one and are wrong.
    assert found.ece == pytest.approx((0.1 + 0.2 + 2 * 0.6) / 4, rel=1e-5)
    assert json.loads(found.model_dump_json())["confusion"] == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_logits_within_0_and_1_are_no_probabilities(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of e^1 : e^0 : e^0, so all are equally sure, half of them wrongly; taken for probabilities, the error is 0.5.
    logits = torch.eye(3)[[0, 0, 1, 2]]
    monkeypatch.setattr(module, "predict", lambda *_, **__: logits)
    found = evaluate(model_dir, images(("ant", "bee", "cow"), [0, 1, 1, 0]))
    confidence = np.e / (np.e + 2)
    assert found.accuracy == 0.5 and found.ece == pytest.approx(confidence - 0.5, rel=1e-5)
    assert found.loss == pytest.approx(-np.log([confidence, 1 / (np.e + 2)]).mean(), rel=1e-5)


@pytest.mark.parametrize("scale", [1 / 64, 1, 64])  # of a layer made more or less sure
def test_images_of_a_class_that_the_model_cannot_name_are_wrong_and_no_part_of_the_loss(
    scale: float, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.eye(3)[[0, 0, 1, 1]]
    logits[:, 2] = scale * ABSENT
    monkeypatch.setattr(module, "predict", lambda *_, **__: logits)
    found = evaluate(model_dir, images(("ant", "bee", "cow"), [0, 1, 1, 2]))
    right, wrong = np.e / (np.e + 1), 1 / (np.e + 1)
    assert found.accuracy == 0.5 and found.n == 4
    assert found.loss == pytest.approx(-np.log([right, wrong, right]).mean(), rel=1e-5)
    assert evaluate(model_dir, images(("ant", "bee", "cow"), [2] * 4)).loss is None


@pytest.mark.parametrize(("classes", "counted"), [(1000, True), (1001, False), (100_000, False)])
def test_pairs_are_counted_of_a_thousand_classes_and_no_more(
    classes: int, counted: bool, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, answers = tuple(map(str, range(classes))), torch.tensor([0, 7, classes - 1])
    logits = torch.nn.functional.one_hot(answers, classes).float()
    monkeypatch.setattr(module, "open_classifier", lambda *_, **__: (None, names, 16))
    monkeypatch.setattr(module, "predict", lambda *_, **__: logits)
    found = evaluate(model_dir, images(names, [0, 7, 7]))
    assert found.accuracy == pytest.approx(2 / 3) and found.per_class["7"].accuracy == 0.5
    assert len(found.confusion) == (classes if counted else 0)
    assert not counted or (found.confusion[7][7], found.confusion[7][-1]) == (1, 1)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    torch.manual_seed(classes)
    logits, labels = 4 * torch.randn(300, classes), torch.randint(classes, (300,))
    logits[0] = torch.tensor([1e4] + [0.0] * (classes - 1))  # quite sure
    theirs = multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=module.BINS, norm="l1")
    assert module.calibration_error(logits, labels) == pytest.approx(theirs.item(), rel=1e-5)


def test_batches_do_not_change_the_answer(model_dir: Path) -> None:
    data = images(("ant", "bee", "cow"), [n % 3 for n in range(17)])
    whole, parts = evaluate(model_dir, data), evaluate(model_dir, data, batch_size=4)
    assert whole.confusion == parts.confusion
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)


def test_unpacked_images_are_judged_by_the_names_of_their_classes(tmp_path: Path, tiny_arch: str) -> None:
    """Folders of other names, and of another order than the model's classes."""
    classes = ("Zoo", "Animals & Nature", "a/b")
    save_model(build_model(tiny_arch, list(classes)), tmp_path / "model", 16)
    folders = folder_names(classes)
    for count, name in enumerate(folders, start=1):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16)).save(tmp_path / "data" / name / f"{number}.png")
    write_names(tmp_path / "data", folders, classes)
    said = CliRunner().invoke(app, ["evaluate", str(tmp_path / "model"), str(tmp_path / "data"), "--json"])
    found = json.loads(said.stdout)
    assert said.exit_code == 0 and {name: entry["n"] for name, entry in found["per_class"].items()} == {
        "Zoo": 1,
        "Animals & Nature": 2,
        "a/b": 3,
    }


def test_unknown_classes_are_named(model_dir: Path) -> None:
    with pytest.raises(BadInputError, match="images of unknown classes: dog, eel") as caught:
        evaluate(model_dir, images(("dog", "ant", "eel"), [0, 1, 2]))
    assert "ant, bee, cow" in caught.value.hint


def test_no_images(model_dir: Path) -> None:
    with pytest.raises(BadInputError, match="no images"):
        evaluate(model_dir, images(("ant",), []))


def test_no_model(tmp_path: Path, model_dir: Path) -> None:
    data = images(("ant",), [0])
    with pytest.raises(BadInputError, match="no such folder"):
        evaluate(tmp_path / "nowhere", data)
    with pytest.raises(BadInputError, match="holds no image classifier"):
        evaluate(tmp_path, data)
    (model_dir / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(BadInputError, match="not a safetensors file"):
        evaluate(model_dir, data)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("size", {"height": 16, "width": 8}, "sides of 16 and 8 pixels"),
        ("size", {"shortest_edge": 18}, "sides of 18 and 16 and 16 pixels"),
        ("image_mean", [0.4, 0.4, 0.4], "from -1 to 1"),
        ("do_resize", False, "do_resize is"),
        ("do_center_crop", False, "do_center_crop is"),
        ("do_rescale", False, "do_rescale is"),
        ("rescale_factor", 1 / 127.5, "rescale_factor is"),
        ("rescale_factor", "a", "rescale_factor is"),
        ("do_normalize", False, "do_normalize is"),
    ],
)
def test_preprocessing_that_is_not_ours_is_named(model_dir: Path, key: str, value: object, words: str) -> None:
    change_json(model_dir / PROCESSOR, **{key: value})
    with pytest.raises(BadInputError, match=rf"preprocessor_config\.json: .*{words}"):
        evaluate(model_dir, images(("ant",), [0]))


def test_a_network_that_takes_another_side_than_its_processor_says_is_named(tmp_path: Path) -> None:
    sides = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "intermediate_size": 16}
    config = ViTConfig(**sides, num_hidden_layers=1, num_attention_heads=2, num_labels=3)
    save_model(ViTForImageClassification(config), tmp_path, 32)
    with pytest.raises(BadInputError, match="with images of 32 by 32 pixels: cannot be used") as caught:
        open_classifier(tmp_path)
    assert "\n" not in caught.value.message and PROCESSOR in caught.value.hint
    change_json(tmp_path / PROCESSOR, size={"height": 16, "width": 16}, do_center_crop=False)
    assert open_classifier(tmp_path)[2] == 16


@pytest.mark.parametrize(
    ("filtered", "words"), [(2, "a bilinear filter"), ("lanczos", "filter 'lanczos'"), (9, "filter 9")]
)
def test_another_filter_of_resizing_is_said(
    model_dir: Path, filtered: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = images(("ant", "bee", "cow"), [0, 1, 2])
    told = evaluate(model_dir, data)
    assert "resized" not in capsys.readouterr().err
    change_json(model_dir / PROCESSOR, resample=filtered)
    assert evaluate(model_dir, data) == told
    assert words in capsys.readouterr().err


def test_a_processor_that_squashes_is_said(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = images(("ant", "bee", "cow"), [0, 1, 2])
    told = evaluate(model_dir, data)
    assert "squashes" not in capsys.readouterr().err
    change_json(model_dir / PROCESSOR, size={"height": 16, "width": 16}, do_center_crop=False)
    assert evaluate(model_dir, data) == told and "squashes" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(16, 16), (40, 40), (50, 28), (28, 50)])
def test_who_uses_the_model_elsewhere_gives_it_the_same_pixels(model_dir: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    theirs = AutoImageProcessor.from_pretrained(model_dir)(images=picture, return_tensors="pt")["pixel_values"][0]
    data = LabelledImages(("ant",), np.zeros(1, np.int64), (lambda: picture,), (), "one")
    ours = normalise(torch.tensor(data.pixels(0, 16)).permute(2, 0, 1))
    assert (theirs - ours).abs().mean() < 0.05, "to a fraction of a pixel, where the sides fit into no whole number"
    assert size[0] != size[1] or torch.allclose(theirs, ours, atol=1e-5)


def test_steps_of_preprocessing_that_are_not_told_are_ours(model_dir: Path) -> None:
    data = images(("ant", "bee", "cow"), [0, 1, 2])
    told = evaluate(model_dir, data)
    scaling = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (model_dir / PROCESSOR).write_text(json.dumps(scaling | {"do_center_crop": None, "rescale_factor": 0.00392157}))
    assert evaluate(model_dir, data) == told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"id2label": {"0": "ant", "1": "bee", "7": "cow"}},
            "3 labels in id2label are not numbered 0 to 2: it lacks 2",
        ),
        ({"id2label": {"0": "ant", "1": "bee"}}, r"config\.json: classifier\.1\.bias is \[3\], not \[2\]"),
        ({"num_channels": 1}, r"config\.json: takes 1 channels"),
        ({"hidden_sizes": [16, 24]}, r"shapes of its config\.json: classifier\.1\.weight is \[3, 32\], not \[3, 24\]"),
    ],
)
def test_a_config_of_other_weights_is_one_line(model_dir: Path, change: dict, words: str) -> None:
    change_json(model_dir / "config.json", **change)
    with pytest.raises(BadInputError, match=words) as caught:
        evaluate(model_dir, images(("ant",), [0]))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("arch", ["tiny", "bit14-tiny"])
def test_a_missing_weight_is_not_drawn_at_random(tmp_path: Path, tiny_arch: str, arch: str) -> None:
    names = ("ant", "bee", "cow")
    save_model(build_model(tiny_arch if arch == "tiny" else arch, names), tmp_path, 32)
    weights = load_file(tmp_path / WEIGHTS)
    counts = {name for name in weights if name.endswith("num_batches_tracked")}
    write_weights({name: tensor for name, tensor in weights.items() if name not in counts}, tmp_path / WEIGHTS)
    assert evaluate(tmp_path, images(names, [0, 1, 2])).n == 3  # counts decide nothing; old files lack them
    write_weights({name: value for name, value in weights.items() if name != "classifier.1.weight"}, tmp_path / WEIGHTS)
    with pytest.raises(BadInputError, match=r"its weights lack classifier\.1\.weight"):
        evaluate(tmp_path, images(names, [0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_saved_in_half_precision_is_read_as_float32(model_dir: Path, dtype: torch.dtype) -> None:
    names = ("ant", "bee", "cow")
    whole = evaluate(model_dir, images(names, [0, 1, 2]))
    saved, _ = load_model(model_dir)
    saved.to(dtype).save_pretrained(model_dir)
    assert load_file(model_dir / WEIGHTS)["classifier.1.bias"].dtype == dtype
    assert evaluate(model_dir, images(names, [0, 1, 2])).loss == pytest.approx(whole.loss, rel=0.02)


def test_a_save_that_is_killed_leaves_no_weights_of_another_config(
    model_dir: Path, tiny_arch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes in another order: the older weights under the newer names would be wrong of every image."""
    names, weights = ("ant", "bee", "cow"), (model_dir / WEIGHTS).read_bytes()
    monkeypatch.setattr(model, "write_weights", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save_model(build_model(tiny_arch, names), model_dir, 16)
    assert (model_dir / WEIGHTS).read_bytes() == weights, "of the same config, they stay until the newer ones are there"
    with pytest.raises(KeyboardInterrupt):
        save_model(build_model(tiny_arch, names[::-1]), model_dir, 16)
    with pytest.raises(BadInputError, match="no safetensors weights"):
        evaluate(model_dir, images(names, [0, 1, 2]))


def test_a_model_that_is_not_finite_is_named(model_dir: Path) -> None:
    weights = load_file(model_dir / WEIGHTS)
    write_weights(weights | {"classifier.1.bias": torch.tensor([0.0, 0.0, float("nan")])}, model_dir / WEIGHTS)
    for read in (lambda: evaluate(model_dir, images(("ant", "bee", "cow"), [0])), lambda: open_classifier(model_dir)):
        with pytest.raises(BadInputError, match=f"{model_dir}: the model's weights are not finite"):
            read()
    huge = torch.full_like(weights["classifier.1.weight"], 3e38)
    write_weights(weights | {"classifier.1.weight": huge}, model_dir / WEIGHTS)
    with pytest.raises(BadInputError, match=f"{model_dir}: the model's answers are not finite"):
        evaluate(model_dir, images(("ant", "bee", "cow"), [0]))
