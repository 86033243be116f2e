"""The sweep with stages that only say what they would take: what runs, what does not, and what is written."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import exclusive
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.images.labelled import LabelledImages
from fglfast.lab.tuning import foretold, sweep
from fglfast.lab.tuning.candidates import Grid
from fglfast.lab.tuning.records import Tuned, TuneSettings
from fglfast.pipeline.scaling import Pilot
from fglfast.report.tune_page import write_page
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.training.settings import TrainSettings

NAMES = ("t-shirt", "bag", "ankle boot")
ROW = 0.01  # seconds
GRID = Grid(steps=(2, 4), guidance=(1.0, 2.0), intervals=((0.0, 1.0),), images_per_class=(10, 20))
TRAINING = {"arch": "resnet10-tiny", "batch_size": 8}
RECIPE = Recipe(backend="torch", image_size=32, sampling=Sampling(scheduler="flow-euler"))


def images(names=NAMES, level=0):
    pixels = [np.full((8, 8, 3), level + label, np.uint8) for label in range(len(names))]
    openers = tuple((lambda image=image: Image.fromarray(image)) for image in pixels)
    return LabelledImages(names, np.arange(len(names)), openers, (), "judges")


@pytest.fixture
def engine(random_mini):
    build = SimpleNamespace(image_size=8, unet_batch=4)
    return SimpleNamespace(model=random_mini, key="abc", build=build)


@pytest.fixture
def stages(monkeypatch):
    """Stages that note what they were asked for: a row takes 10 ms, more images and steps are more accurate."""
    asked = []

    class DataSets:
        def __init__(self, engine, merged, seed, folder):
            self.model = engine.model
            shutil.rmtree(folder, ignore_errors=True)

        def make(self, candidate):
            asked.append(candidate.name)
            passes = Schedule.of_model(self.model, candidate.sampling).passes()
            seconds = 3 * candidate.images_per_class * passes * ROW
            plan = SimpleNamespace(present=np.arange(len(NAMES)))
            return SimpleNamespace(folder=candidate, plan=plan, seconds=seconds, drawn_with=None)

    def train(candidate, out, settings, processes):
        score = 0.5 + candidate.images_per_class / 1000 + candidate.sampling.steps / 100
        return SimpleNamespace(model=score, seconds=0.0)

    monkeypatch.setattr(sweep, "DataSets", DataSets)
    monkeypatch.setattr(sweep, "train", train)
    monkeypatch.setattr(sweep, "evaluate", lambda model, judges: SimpleNamespace(accuracy=model))
    monkeypatch.setattr(sweep, "seconds_per_pass", lambda engine: ROW * engine.build.unet_batch)
    return asked


@pytest.fixture
def tune(engine, merged, stages, tmp_path):
    def run(budget=2.0, grid=GRID, judges=None, recipe=RECIPE, curve=False, **training):
        settings = TuneSettings(grid=grid, budget=budget, train=TrainSettings(**(TRAINING | training)), curve=curve)
        return sweep.tune(engine, merged, judges or images(), recipe, settings, tmp_path / "out")

    return run


def test_what_is_predicted_over_the_budget_is_not_run_and_said_to_be(tune, stages, tmp_path, capfd):
    tuned = tune()  # rows an image: 2, 4, 4, 8; images: 30, 60
    assert stages[0] == "steps2-guidance1-images10"  # the cheapest comes first, then the most images of a sampling
    assert stages[1:] == [
        "steps2-guidance1-images20",
        "steps2-guidance2-images10",
        "steps4-guidance1-images10",
    ]
    skipped = [trial for trial in tuned.trials if not trial.measured]
    assert {(trial.images, trial.passes) for trial in skipped} == {(60, 4), (30, 8), (60, 8)}
    assert not any(trial.eligible or trial.on_front for trial in skipped)
    assert all(
        trial.predicted_seconds == pytest.approx(trial.images * trial.passes * ROW, rel=0.1) for trial in skipped
    )
    assert capfd.readouterr().err.count("more than the budget") == len(skipped) == 4
    assert tuned.winner == "steps4-guidance1-images10" and tuned.best.eligible and tuned.best.on_front
    assert Tuned.model_validate_json((tmp_path / "out" / "tune.json").read_bytes()) == tuned


def test_the_recipe_holds_the_winners_sampling_and_is_read_back(tune, tmp_path):
    tuned = tune()
    read = find_recipe(str(tmp_path / "out" / "recipe.toml"))
    assert read == RECIPE.model_copy(update={"sampling": tuned.best.candidate.sampling})
    assert (read.sampling.scheduler, read.sampling.steps, read.sampling.guidance_scale) == ("flow-euler", 4, 1.0)


def test_run_again_it_redoes_nothing_and_more_candidates_or_budget_are_welcome(tune, stages, tmp_path):
    first, ran = tune(), list(stages)
    assert tune() == first and stages == ran
    (tmp_path / "out" / "candidates" / f"{ran[1]}.json").unlink()  # as if killed before it was written
    again = {trial.candidate.name: trial.measured is None for trial in tune().trials}  # by seconds, measured anew
    assert again == {trial.candidate.name: trial.measured is None for trial in first.trials}
    assert stages == [*ran, ran[1]]
    more = tune(grid=GRID.model_copy(update={"steps": (1,), "guidance": (1.0,)}))
    assert stages[5:] == ["steps1-guidance1-images20", "steps1-guidance1-images10"]
    assert len([trial for trial in more.trials if trial.measured]) == 6
    assert tune(budget=60.0).best.candidate.name == "steps4-guidance1-images20"  # the cheaper of two as accurate
    assert len(stages) == len(set(stages)) + 1 == 11


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"epochs": 3}, "training"),
        ({"judges": images(level=9)}, "validation"),
        ({"recipe": RECIPE.model_copy(update={"sampling": Sampling(scheduler="unipc")})}, "sampling"),
    ],
)
def test_other_settings_in_the_folder_are_refused(tune, stages, changes, word):
    tune()
    ran = list(stages)
    with pytest.raises(BadInputError, match=rf"other settings \(.*{word}"):
        tune(**changes)
    assert stages == ran


def test_a_budget_below_the_cheapest_says_what_that_takes(tune, stages):
    with pytest.raises(UsageError, match=r"0\.5 s is below the cheapest candidate, which takes at least 0\.6 s"):
        tune(budget=0.5)
    assert not stages
    tune()
    with pytest.raises(UsageError, match=r"takes about 0\.6 s"):
        tune(budget=0.5)


def test_candidates_of_less_than_a_batch_are_refused_before_any_is_drawn(tune, stages):
    with pytest.raises(UsageError, match="10 images of each of 3 classes leave 27 to train on, but one step takes 28"):
        tune(batch_size=28)
    assert not stages


def test_validation_of_other_classes_is_refused(tune, stages):
    for names in (NAMES[:2], (*NAMES, "coat")):
        with pytest.raises(BadInputError, match=r"judges and the payloads differ in classes: (ankle boot|coat)"):
            tune(judges=images(names))
    assert tune(judges=images(NAMES[::-1])).validation_images == 3  # another order is fine


def test_a_damaged_candidate_and_a_second_run_are_refused(tune, tmp_path):
    tune()
    with exclusive(tmp_path / "out" / ".lock"), pytest.raises(UsageError, match="another run"):
        tune()
    damaged = next((tmp_path / "out" / "candidates").glob("*.json"))
    damaged.write_text("{}")
    with pytest.raises(BadInputError, match=damaged.name):
        tune()


def test_the_page_shows_winner_budget_and_caveat_and_is_the_same_again(tune, tmp_path):
    tuned = tune()
    write_page(tuned, "fglfast synthesize --out <synth>", tmp_path)
    page, plot = (tmp_path / "tune.html").read_text(), (tmp_path / "pareto.png").read_bytes()
    assert tuned.best.candidate.words in page and "&lt;synth&gt;" in page
    assert "optimistic" in page and page.count("not run</td>") == 4 and plot.startswith(b"\x89PNG")
    write_page(tuned, "fglfast synthesize --out <synth>", tmp_path)
    assert (tmp_path / "tune.html").read_text() == page and (tmp_path / "pareto.png").read_bytes() == plot


def test_a_curve_is_of_pilots_of_the_winner_and_they_are_trained_once(tune, tmp_path, monkeypatch):
    trained = []

    def run_pilots(pool, judges):
        trained.append(pool)
        accuracies = {100: (0.7,), 50: (0.6, 0.64), 25: (0.5, 0.53, 0.55, 0.51)}
        named = [(size, part, right) for size, all_of in accuracies.items() for part, right in enumerate(all_of)]
        return [Pilot(images_per_class=size, part=part, accuracy=right, distance=1.0) for size, part, right in named]

    monkeypatch.setattr(foretold, "run_pilots", run_pilots)
    monkeypatch.setattr(foretold.Pool, "of", lambda candidate, images, side: candidate)
    plain = tune()
    write_page(plain, "", tmp_path)
    assert not plain.curve and "foretold" not in (tmp_path / "tune.html").read_text()
    tuned = tune(curve=True)
    assert [one.images_per_class for one in trained] == [100] and trained[0].sampling == tuned.best.candidate.sampling
    assert (tuned.curve[0].images_per_class, tuned.curve[-1].images_per_class) == (25, 500)
    last = tuned.curve[-1]
    assert 0.7 < last.accuracy < 1 and last.low < last.accuracy < last.high
    assert tune(curve=True) == tuned and len(trained) == 1 and len(tuned.pilots) == 7
    write_page(tuned, "", tmp_path)
    page = (tmp_path / "tune.html").read_text()
    assert page.count('<img class="curve"') == 2 and "500 a class are foretold" in page
    next((tmp_path / "out" / "pilots").iterdir()).write_text("{}")
    with pytest.raises(BadInputError, match="steps4-guidance1-images10"):
        tune(curve=True)
