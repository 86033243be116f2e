"""What `mini` draws well and what it does not; nothing is left behind."""

import json
import tempfile

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe
from fglfast.generator.text import resolve_model
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import concatenate
from fglfast.lab.probe import classifier
from fglfast.lab.probe import probe as run
from fglfast.lab.probe.findings import ClassImages, coverage, judge
from fglfast.lab.probe.verdict import ClassFinding, Findings, Share, score
from fglfast.sampler.schedule import Sampling
from fglfast.verbs.app import app

TOLD_APART = ("trouser", "sneaker", "ankle boot")


@pytest.fixture(autouse=True)
def _short_lessons(monkeypatch):
    monkeypatch.setattr(classifier, "EPOCHS", 2)
    monkeypatch.setattr(classifier, "LEAST_STEPS", 40)


def some(names=TOLD_APART, each=run.LEAST):
    """The first images of some classes."""
    dataset = read_dataset("fashion:private")
    labels = [dataset.class_names.index(name) for name in names]
    return dataset.select(np.concatenate([np.flatnonzero(dataset.labels == label)[:each] for label in labels]))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Images of three classes by `mini`, and as many real ones."""
    sampling = Sampling(steps=8, guidance_scale=1.0)
    recipe = Recipe(backend="torch", image_size=32, unet_batch=16, vae_batch=16, sampling=sampling)
    engine = build_engine(recipe, resolve_model("mini"), tmp_path_factory.mktemp("engines"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "EPOCHS", 1)
        patch.setattr(classifier, "LEAST_STEPS", 1)
        return run.probe(engine, sampling, some(), run.ProbeSettings(images=16)).compared


def changed(drawn, how):
    """The client's images made into others."""
    return [ClassImages(part.name, part.images, how(part.own), how(part.held_out), part.drawn) for part in drawn]


def noise(pixels):
    return np.random.default_rng(pixels[0, 0, 0, 0]).integers(0, 256, pixels.shape, dtype=np.uint8)


STRANGE = {"inverted": lambda x: 255 - x, "rotated": lambda x: np.rot90(x, axes=(1, 2)), "noise": noise}


def test_ordinary_images_are_drawn_well(drawn):
    assert [part.name for part in drawn] == list(TOLD_APART)
    assert [found.verdict for found in judge(drawn)] == ["well"] * 3


@pytest.mark.parametrize("how", STRANGE)
def test_images_unlike_those_that_it_learned_from_are_not_drawn(drawn, how):
    assert [found.verdict for found in judge(changed(drawn, STRANGE[how]))] == ["not"] * 3


def test_one_class_is_judged_without_another(drawn):
    (found,) = judge(drawn[1:2])
    assert found.recognised is None and found.verdict == "well"
    for how in STRANGE.values():
        assert judge(changed(drawn[1:2], how))[0].verdict == "not"


def test_one_strange_class_spoils_no_other(drawn):
    strange = changed(drawn[:1], noise)
    assert [found.verdict for found in judge([*strange, *drawn[1:]])] == ["not", "well", "well"]


def test_coverage_is_the_papers():
    real = np.array([[0.0], [1.0], [2.0], [10.0]])
    assert coverage(real, np.array([[1.4]]), neighbours=1) == 0.5  # of 1 and 2; 0 is 1.4 away, 10 has 8 around it
    assert coverage(real, np.array([[3.0]]), neighbours=1) == 0.5  # of 2 and 10
    draw = np.random.default_rng(0)
    found = [coverage(draw.normal(size=(64, 8)), draw.normal(size=(64, 8))) for _ in range(100)]
    expected = 1 - np.prod([(64 - i) / (128 - i) for i in range(1, 6)])
    assert np.mean(found) == pytest.approx(expected, abs=0.005)


def test_scores_are_relative_to_own_images_and_need_both():
    full = Share(drawn=0.9, own=0.9)
    assert score(full, full, classes=2) == 1.0
    assert score(Share(drawn=0.5, own=0.9), full, classes=2) == 0.0  # no better than guessing
    assert score(Share(drawn=0.7, own=0.9), full, classes=2) == pytest.approx(0.5**0.5)
    assert score(Share(drawn=1.0, own=0.55), Share(drawn=0.0, own=0.9), classes=2) == 0.0
    assert score(None, Share(drawn=0.3, own=0.9), classes=1) == pytest.approx(1 / 3)


def finding(name, score, compared=64):
    return ClassFinding(name=name, images=200, compared=compared, score=score)


@pytest.mark.parametrize(
    ("scores", "verdict", "word"),
    [
        ((0.8, 0.76), "well", "join: "),
        ((0.8, 0.3), "partly", "expect little for b"),
        ((0.8, 0.2), "partly", "expect little for b"),
        ((0.8, 0.2, 0.1), "not", "do not join"),
        ((0.8, None), "well", "join: "),
    ],
)
def test_the_advice_follows_from_the_classes(scores, verdict, word):
    found = Findings(classes=tuple(finding(name, value) for name, value in zip("abc", scores, strict=False)))
    assert found.verdict == verdict and word in found.advice


def test_few_images_widen_what_chance_may_do():
    assert finding("a", 0.7).verdict == "partly" and finding("a", 0.7, compared=32).verdict == "well"
    assert finding("a", 0.3).verdict == "partly" and finding("a", 0.3, compared=32).verdict == "not"


@pytest.fixture
def asked(random_mini, tmp_path, monkeypatch):
    """A probe of a generator with random weights, in an empty folder with a temporary folder of its own."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    dataset = concatenate([some(("trouser", "bag")), some(("coat",), each=1)])
    pixels = np.stack([dataset.pixels(row, 28) for row in range(len(dataset))])
    np.savez(tmp_path / "own.npz", images=pixels, labels=dataset.labels, class_names=dataset.class_names)
    recipe = f'model = "{random_mini}"\nimage_size = 32\nunet_batch = 8\n[sampling]\nsteps = 1\nguidance_scale = 1.0\n'
    (tmp_path / "tiny.toml").write_text(recipe)
    return ["probe", str(tmp_path / "own.npz"), "--recipe", str(tmp_path / "tiny.toml"), "--images", "16"]


def left(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for name in ("tmp", "here") for path in (tmp_path / name).rglob("*"))


def test_the_command_tells_and_leaves_nothing_but_the_picture(asked, tmp_path):
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {entry["name"]: entry["verdict"] for entry in found["classes"]} == {
        **dict.fromkeys(("trouser", "bag"), "not"),
        "coat": "too few images",
    }
    assert found["verdict"] == "not" and "do not join" in found["advice"] and left(tmp_path) == []
    shown = CliRunner().invoke(app, [*asked, "--picture", "p.png", "--prompt-level", "instance", "--domain", "sketch"])
    assert shown.exit_code == 0 and "16 of 32" in shown.stdout and "p.png shows private images" in shown.stdout
    assert left(tmp_path) == ["here/p.png"] and Image.open("p.png").size == (190 + 2 * 8 * 64 + 16, 28 + 2 * 64)


def test_an_interrupted_probe_leaves_nothing(asked, tmp_path, monkeypatch):
    def interrupt(*_):
        assert left(tmp_path) != []  # the engine is there
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "judge", interrupt)
    stopped = CliRunner().invoke(app, [*asked, "--picture", "p.png"])
    assert stopped.exit_code == 130 and "nothing was kept" in stopped.stderr
    assert left(tmp_path) == []


def test_what_cannot_be_probed_is_said_at_once(asked, tmp_path):
    few = tmp_path / "few.npz"
    np.savez(few, images=np.zeros((3, 8, 8), np.uint8), labels=np.zeros(3, np.int64))
    Image.new("L", (8, 8)).save(tmp_path / "photo.png")
    for arguments, code, word in (
        (["probe", str(few), *asked[2:]], 4, "no class has more than 3 images"),
        ([*asked, "--picture", "none/p.png"], 2, "--picture"),
        ([*asked, "--picture", "p.jpg"], 2, "--picture"),
        ([*asked, "--picture", str(tmp_path / "photo.png")], 2, "no picture of fglfast"),
        ([*asked, "--captions", "c.csv"], 2, "--prompt-level"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code and word in done.output, done.output
