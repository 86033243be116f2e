"""The stop rule with an engine that computes nothing, and pilots that follow a law or learn two colours."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.generator.fingerprints import model_fingerprint
from fglfast.images.dataset import read_dataset
from fglfast.payload import save_payload
from fglfast.pipeline import pilots, stopping
from fglfast.pipeline.pilots import Judges, Pool, right, run_pilots
from fglfast.pipeline.scaling import Law, Pilot
from fglfast.pipeline.stopping import RECORD, Stopping, Until, synthesize_until
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.settings import SynthesisSettings, plan_of
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.settings import TrainSettings
from fglfast.verbs import for_servers
from fglfast.verbs.app import app

MOST = SynthesisSettings(images_per_class=60, shard_size=32, sampling=Sampling(steps=1, guidance_scale=1.0))
CLASSES = 3  # that ann and bob hold
SLOPE = 0.0219  # at which a thousand more bring 8 points at 42 images of each class


def accuracy(size, slope=SLOPE):
    return 1 - 0.5 * size**-slope


def lawful(pool, judges, slope=SLOPE):
    """Pilots whose accuracy follows a law exactly."""
    sizes = [(pool.images_per_class // parts, part) for parts in (1, 2, 4) for part in range(parts)]
    return [
        Pilot(images_per_class=size, part=part, accuracy=accuracy(size, slope), distance=0.0) for size, part in sizes
    ]


def one_more(pool, judges):
    return lawful(pool, judges)[0]


@pytest.fixture
def until(idle, merged, tmp_path, monkeypatch):
    """Draw into a folder until a thousand images bring less than some points."""
    monkeypatch.setattr(stopping, "run_pilots", lawful)
    monkeypatch.setattr(stopping, "one_more", one_more)

    def run(points=8.0, per="images", settings=MOST, out="out", pilot_images=20, **more):
        bound = Until(points=points, per=per)
        return synthesize_until(idle(), merged, settings, bound, tmp_path / out, pilot_images, **more)

    return run


def content(folder):
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in files.items() if not name.startswith(".locks")}


def test_the_data_set_is_the_one_of_the_number_that_was_chosen(until, idle, merged, tmp_path):
    made, record = until()
    number = round((100 * 0.5 * SLOPE * 1000 / (CLASSES * 8.0)) ** (1 / (1 + SLOPE)))
    assert record.images_per_class == number == 42 and made.images == 42 * CLASSES and made.missing == 0
    synthesize(idle(), merged, MOST.model_copy(update={"images_per_class": number}), tmp_path / "fresh")
    drawn = content(tmp_path / "out")
    assert Stopping.model_validate_json(drawn.pop(RECORD)) == record
    assert drawn == content(tmp_path / "fresh")
    assert (record.curve[0].images_per_class, record.curve[-1].images_per_class) == (5, 60)
    assert record.curve[-1].accuracy == pytest.approx(accuracy(60), abs=1e-6)


def test_no_more_than_may_be_and_no_less_than_the_pilots_have(until):
    whole, record = until(points=0.1, out="all")
    assert record.images_per_class == 60 and len(record.pilots) == 8 and whole.images == 60 * CLASSES
    assert until(points=99.0, out="few")[1].images_per_class == 20


def test_a_minute_is_worth_what_is_drawn_in_it(until, monkeypatch):
    monkeypatch.setattr(stopping, "seconds_per_image", lambda engine, sampling: 0.5)  # 120 images a minute
    assert until(points=8.0 * 120 / 1000, per="minute")[1].images_per_class == 42


def test_a_block_is_twice_the_one_before_and_its_pilot_may_end_it(until, monkeypatch):
    """What the first pilots promise is far; the one on forty images a class sees that it does not come."""
    monkeypatch.setattr(stopping, "run_pilots", partial(lawful, slope=0.2))
    blocks = []

    def flat(pool, judges):
        blocks.append(pool.images_per_class)
        return Pilot(images_per_class=pool.images_per_class, part=0, accuracy=0.2)

    monkeypatch.setattr(stopping, "one_more", flat)
    large = MOST.model_copy(update={"images_per_class": 400})
    made, record = until(points=4.0, settings=large)
    assert blocks == [40] and record.decided and record.images_per_class == 40 and made.images == 40 * CLASSES
    assert [pilot.images_per_class for pilot in record.pilots][-2:] == [5, 40]


def test_killed_anywhere_and_run_again_it_ends_the_same(until, tmp_path, monkeypatch):
    _, record = until(out="whole")
    wanted, real, asked = content(tmp_path / "whole"), stopping.synthesize, []

    def stop(*_, **__):
        raise KeyboardInterrupt

    def counted(*given):
        asked.append(given)
        return lawful(*given)

    monkeypatch.setattr(stopping, "synthesize", stop)
    with pytest.raises(KeyboardInterrupt):
        until()  # before anything was drawn
    monkeypatch.setattr(stopping, "synthesize", real)
    monkeypatch.setattr(stopping, "run_pilots", stop)
    with pytest.raises(KeyboardInterrupt):
        until()  # while pilots were trained
    monkeypatch.setattr(stopping, "run_pilots", counted)
    monkeypatch.setattr(stopping, "synthesize", lambda *a, **k: stop() if asked else real(*a, **k))
    with pytest.raises(KeyboardInterrupt):
        until()  # once it was decided
    monkeypatch.setattr(stopping, "synthesize", real)
    assert until()[1] == record and content(tmp_path / "out") == wanted
    made, again = until()
    assert made.images == 0 and again == record and len(asked) == 1


def test_what_an_earlier_version_began_is_gone_on_with(until, idle, merged, tmp_path):
    _, record = until()
    key = idle().manifest.key
    plan = plan_of(key.weights, key.build.image_size, merged, MOST).digest()
    assert plan != record.plan
    record.model_copy(update={"plan": plan}).save(tmp_path / "out" / RECORD)
    made, again = until()
    assert made.images == 0 and again == record


def test_what_does_not_go_together_is_refused(until, idle, merged, tmp_path):
    synthesize(idle(), merged, MOST, tmp_path / "drawn")
    before = content(tmp_path / "drawn")
    with pytest.raises(UsageError, match="without --until-gain"):
        until(out="drawn")
    assert content(tmp_path / "drawn") == before
    until()
    for changes in ({"points": 7.0}, {"settings": MOST.model_copy(update={"seed": 1})}, {"pilot_images": 21}):
        with pytest.raises(UsageError, match="until something else"):
            until(**changes)
    with pytest.raises(UsageError, match="no more than 60"):
        until(out="new", pilot_images=60)
    with pytest.raises(UsageError, match="cannot learn from 19"):
        until(out="new", pilot_images=19)
    (tmp_path / "out" / RECORD).write_text("{}")
    with pytest.raises(BadInputError, match=RECORD):
        until()


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "101", "1/h", "1/", "/min"])
def test_a_bound_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="--until-gain"):
        Until.parse(text)


def test_a_bound_is_read():
    assert Until.parse("0.2") == Until(points=0.2) and Until.parse(" 3/min ") == Until(points=3, per="minute")


def pool_of(images_per_class, seed=0):
    """Dark images and light ones, in turn, under noise."""
    labels_N = np.arange(2 * images_per_class) % 2
    noise_N3SS = np.random.default_rng(seed).integers(0, 40, (len(labels_N), 3, 16, 16))
    pixels_N3SS = torch.from_numpy((noise_N3SS + 100 * labels_N[:, None, None, None]).astype(np.uint8))
    return Pool(pixels_N3SS, labels_N.astype(np.int64), ("dark", "light"), images_per_class)


def test_the_whole_alone_is_learned_as_among_its_parts(tiny_arch):
    pool, settings = pool_of(20), TrainSettings(arch=tiny_arch, epochs=1, batch_size=8)
    alone = pilots.one_more(pool, pool.judges(), settings)
    assert alone.accuracy == run_pilots(pool, pool.judges(), settings)[0].accuracy and alone.distance is None


def test_pilots_learn_what_is_there_and_come_out_alike(tiny_arch):
    pool, settings = pool_of(40), TrainSettings(arch=tiny_arch, epochs=4, batch_size=8, erasing=0.0)
    other = pool_of(20, seed=1)
    judges = Judges(other.pixels_N3SS, other.labels_N, real=True)
    found = run_pilots(pool, judges, settings)
    assert [(pilot.images_per_class, pilot.part) for pilot in found] == [
        *((40, 0), (20, 0), (20, 1), (10, 0), (10, 1), (10, 2), (10, 3))
    ]
    assert found[0].accuracy > 0.9 and all(pilot.distance > 0 for pilot in found)
    assert run_pilots(pool, judges, settings) == found
    assert 0 <= Law.of(found).at(100).low <= 1


def test_synthetic_images_that_judge_are_not_learned_from():
    pool = pool_of(40)
    assert len(pool.judges().labels_N) == 16 and np.bincount(pool.judges().labels_N).tolist() == [8, 8]
    parts = [pool.part(10, number) for number in range(4)]
    assert np.concatenate(parts).tolist() == list(range(80))
    assert all(np.isin(pool.held_out, part).sum() == 4 for part in parts)
    taught = []
    object.__setattr__(pool, "train", lambda rows, settings: taught.append(rows) or Named())
    run_pilots(pool, pool.judges())
    assert not np.isin(np.concatenate(taught), pool.held_out).any() and len(taught[0]) == 64


class Mean(torch.nn.Module):
    """A network that sees an image's mean."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values):
        return SimpleNamespace(pooler_output=pixel_values.mean((1, 2, 3))[:, None])


class Named(Mean):
    """A classifier of it that names everything dark."""

    @property
    def base_model(self):
        return Mean()

    def forward(self, pixel_values):
        return SimpleNamespace(logits=torch.tensor([[1.0, 0.0]]).expand(len(pixel_values), 2))


def test_judges_are_of_the_classes_that_are_drawn():
    images = read_dataset("fashion:test").select(range(60))
    names, present = images.class_names, np.array([0, 3])
    judges = Judges.of(images, names, present, 16)
    assert set(judges.labels_N.tolist()) == {0, 3} and judges.real and judges.pixels_N3SS.shape[1:] == (3, 16, 16)
    assert len(Judges.of(images, names, present, 16, most=5).labels_N) == 5
    assert right(Named(), judges) == pytest.approx((judges.labels_N == 0).mean(), abs=1e-6)
    with pytest.raises(BadInputError, match="no image of a class that is drawn"):
        Judges.of(images.select(np.flatnonzero(images.labels == 0)), names, np.array([3]), 16)
    with pytest.raises(BadInputError, match="unknown"):
        Judges.of(images, ("a", "b"), np.array([0]), 16)


@pytest.fixture
def call(until, payload, idle, random_mini, tmp_path, monkeypatch):
    """The verb, with an engine that computes nothing and lawful pilots."""

    def opened(*_, check, **__):
        check(random_mini, 32)
        engine = idle()
        engine.manifest.key.weights = model_fingerprint(random_mini)
        return engine

    monkeypatch.setattr(for_servers, "open_engine", opened)
    for client, counts in (("ann", (3, 0, 1)), ("bob", (1, 5, 0))):
        save_payload(payload(client, counts), tmp_path / f"{client}.safetensors")
    line = ["synthesize", "--embeddings", f"{tmp_path}/*.safetensors", "--out", str(tmp_path / "out"), "--json"]
    line += ["--images-per-class", "60", "--shard-size", "32", "--steps", "1", "--guidance", "1"]
    return lambda *more: CliRunner().invoke(app, [*line, *more])


def test_the_verb_decides_says_so_and_goes_on(call, tmp_path):
    rule = ("--until-gain", "8", "--pilot-images", "20")
    done = call(*rule)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["images"] == 126 and found["stopping"]["images_per_class"] == 42
    assert "synthetic" in done.stderr and "42 images a class" in done.stderr
    again = call(*rule)
    assert again.exit_code == 0 and json.loads(again.stdout)["images"] == 0
    assert call("--images-per-class", "42").exit_code == 0  # it is that data set


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--until-gain", "x"], 2),
        (["--until-gain", "1", "--update"], 2),
        (["--until-gain", "1", "--pilot-images", "60"], 2),
        (["--validation", "fashion:test"], 2),
        (["--until-gain", "1", "--pilot-images", "20", "--validation", "nowhere"], 4),
        (["--until-gain", "1", "--pilot-images", "20", "--validation", "fashion:none"], 4),
        (["--until-gain", "1", "--pilot-images", "20", "--validation", "fashion:test"], 4),  # of other classes
    ],
)
def test_bad_options_get_one_line_and_the_exit_code(call, tmp_path, options, code):
    refused = call(*options)
    assert refused.exit_code == code, refused.output
    assert "Traceback" not in refused.output and not (tmp_path / "out").exists()
