"""Draw, train and judge every candidate that a budget allows. Knows how stages follow one another, not how they work.

A finished candidate is a file in `candidates/`, and is not run again. A kill costs the one that was at work: it begins
anew, as its seconds are those of a run that nothing interrupts.
"""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import check_claim, claim, sole, write_atomic
from fglfast.base.machine import machine_facts, package_versions
from fglfast.base.wording import some
from fglfast.base.writable import free_for
from fglfast.engine.build import Engine, seconds_per_pass
from fglfast.engine.manifest import device_name
from fglfast.engine.recipe import Recipe
from fglfast.images.labelled import LabelledImages
from fglfast.lab.tuning.candidates import Candidate, candidates
from fglfast.lab.tuning.costs import predict
from fglfast.lab.tuning.drawing import DataSets
from fglfast.lab.tuning.foretold import foretold
from fglfast.lab.tuning.front import best_within, pareto_front
from fglfast.lab.tuning.records import Measured, Trial, Tuned, TuneSettings, read_trials
from fglfast.payload.merge import Merged, by_client
from fglfast.sampler.guide import Guide
from fglfast.sampler.schedule import Schedule
from fglfast.synthesis.conditioning import check_fit
from fglfast.training.batches import split
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import read_json_object

FACTS, WHAT = "sweep.json", "candidates measured with other settings"


def tune(
    engine: Engine, merged: Merged, validation: LabelledImages, recipe: Recipe, settings: TuneSettings, out: Path
) -> Tuned:
    """Measure every candidate that is not predicted to exceed the budget, and choose the most accurate that does not.

    Run again, it reads what is finished; other candidates and another budget are welcome in the same folder, which also
    gets `tune.json` and `recipe.toml`. Real labelled images judge; never the test images.

    Raises:
        BadInputError: `check_input` refuses, or `out` holds another sweep.
        UsageError: `check_input` refuses, no candidate keeps within the budget, or another run is at work in `out`.
    """
    check_input(merged, validation, settings)
    with sole(out, FACTS):
        facts = _facts(engine.build.image_size, merged, validation, recipe, settings)
        claim(out / FACTS, facts | {"engine": engine.key}, WHAT)
        guided = recipe.sampling.changed(guidance_scale=2.0)  # as some candidates may be
        claim(out / "generator.json", Guide.of(engine.model, guided).model_dump(), "candidates of another generator")
        (out / "candidates").mkdir(exist_ok=True)
        sweep = _Sweep(engine, merged, validation, recipe, settings, out)
        sweep.run()
        tuned = sweep.tuned()
        if settings.curve:
            tuned = foretold(tuned, engine, merged, validation, sweep.data, out / "pilots")
        shutil.rmtree(out / "work", ignore_errors=True)
    tuned.save(out / "tune.json")
    write_atomic(out / "recipe.toml", tuned.tuned_recipe().to_toml())
    return tuned


def check_input(merged: Merged, validation: LabelledImages, settings: TuneSettings) -> None:
    """Refuse, before an engine is opened, what no candidate could be trained on or judged by.

    Raises:
        BadInputError: the classes of the validation images are not the payloads'.
        UsageError: a candidate has fewer images than a training batch.
    """
    differing = sorted(set(merged.class_names) ^ set(validation.class_names))
    if differing:
        raise BadInputError(
            f"{validation.source} and the payloads differ in classes: {some(differing)}",
            "judge on images of the classes that the clients embedded",
        )
    least, train = min(settings.grid.images_per_class), settings.train
    rows, _ = split(np.repeat(np.arange(_classes(merged)), least), train.validation_share, train.seed)
    if len(rows) < train.batch_size:
        raise UsageError(
            f"{least} images of each of {_classes(merged)} classes leave {len(rows)} to train on, but one step takes "
            f"{train.batch_size}",
            "raise --images-per-class",
        )


def check_work(
    merged: Merged,
    validation: LabelledImages,
    recipe: Recipe,
    settings: TuneSettings,
    out: Path,
    model: Path,
    image_size: int,
) -> None:
    """Refuse, before an engine is built, payloads that do not fit the model, and the folder of another sweep.

    Raises:
        UsageError: `out` cannot be used.
        BadInputError: as said.
    """
    free_for(out, FACTS)
    check_fit(merged, model)
    if (out / FACTS).exists():
        check_claim(out / FACTS, _facts(image_size, merged, validation, recipe, settings), WHAT, later=("engine",))


def _classes(merged: Merged) -> int:
    """Classes that some client holds: those that are drawn."""
    return len(np.unique(merged.labels))


class _Sweep:
    """One call of `tune`: what is finished, what is asked for, and the work on the difference."""

    def __init__(
        self,
        engine: Engine,
        merged: Merged,
        validation: LabelledImages,
        recipe: Recipe,
        settings: TuneSettings,
        out: Path,
    ) -> None:
        self.engine, self.merged, self.validation = engine, merged, validation
        self.recipe, self.settings, self.out = recipe, settings, out
        self.asked = candidates(settings.grid, recipe.sampling, engine.model)
        self.passes = {each.name: Schedule.of_model(engine.model, each.sampling).passes() for each in self.asked}
        self.finished = out / "candidates"
        self.done = read_trials(self.finished)
        self.row_seconds = _row_seconds(engine, out / "row.seconds")
        self.data = DataSets(engine, merged, settings.train.seed, out / "work")

    def run(self) -> None:
        """Run candidates until the budget allows no other."""
        while trial := self._next():
            candidate, guess = trial.candidate, trial.predicted_seconds
            note(f"{candidate.words}: {'the cheapest, it comes first' if guess is None else f'about {guess:.0f} s'}")
            measured = self._measure(candidate)
            self.done[candidate.name] = trial = trial.model_copy(update={"measured": measured})
            trial.save(self.finished / f"{candidate.name}.json")
            note(f"{candidate.words}: accuracy {measured.accuracy:.1%}, {measured.server_seconds:.1f} s")
        for trial in self._open():
            note(f"{trial.candidate.words}: not run: its {trial.seconds:.0f} s or so are more than the budget leaves")

    def tuned(self) -> Tuned:
        """What was found.

        Raises:
            UsageError: nothing keeps within the budget.
        """
        done = sorted(self.done.values(), key=_by_seconds)
        points = [(trial.seconds, trial.accuracy) for trial in done]
        best, front = best_within(points, self.settings.budget), pareto_front(points)
        if best is None:
            raise self._too_little()
        trials = [
            trial.model_copy(update={"eligible": trial.seconds <= self.settings.budget, "on_front": place in front})
            for place, trial in enumerate(done)
        ]
        return Tuned(
            settings=self.settings,
            recipe=self.recipe,
            engine=self.engine.key,
            validation=self.validation.source,
            validation_images=len(self.validation),
            clients=len(self.merged.clients),
            trials=(*trials, *sorted(self._open(), key=_by_seconds)),
            winner=done[best].candidate.name,
            machine=machine_facts(device_name()),
            versions=package_versions(),
        )

    def _next(self) -> Trial | None:
        """The next to run: first the cheapest of all; then sampling by sampling, the most images first."""
        affordable = [trial for trial in self._open() if trial.seconds <= self.settings.budget]
        if not self.done:
            if not affordable:
                raise self._too_little()
            return min(affordable, key=_by_seconds).model_copy(update={"predicted_seconds": None})
        return min(affordable, key=_turn, default=None)

    def _open(self) -> list[Trial]:
        """Candidates that are asked for and not finished, with what they would take."""
        return [self._predicted(candidate) for candidate in self.asked if candidate.name not in self.done]

    def _predicted(self, candidate: Candidate) -> Trial:
        images = candidate.images_per_class * _classes(self.merged)
        passes = self.passes[candidate.name]
        seconds = predict(images, passes, self.row_seconds, list(self.done.values()))
        return Trial(candidate=candidate, images=images, passes=passes, predicted_seconds=round(seconds, 3))

    def _measure(self, candidate: Candidate) -> Measured:
        made, model = self.data.make(candidate), self.out / "work" / "model"
        shutil.rmtree(model, ignore_errors=True)
        begun = time.monotonic()
        trained = train(made.folder, model, self.settings.train, "auto")
        ended = time.monotonic()
        found = evaluate(trained.model, self.validation)
        return Measured(
            accuracy=found.accuracy,
            synthesis_seconds=round(made.seconds, 3),
            training_seconds=round(ended - begun, 3),
            epoch_seconds=trained.seconds,
            evaluation_seconds=round(time.monotonic() - ended, 3),
            drawn_with=made.drawn_with,
        )

    def _too_little(self) -> UsageError:
        least = min(trial.seconds for trial in (*self.done.values(), *self._open()))
        what = "takes about" if self.done else "takes at least"
        return UsageError(
            f"a budget of {self.settings.budget:g} s is below the cheapest candidate, which {what} {least:.1f} s",
            "raise --budget, or try fewer --steps, --images-per-class or --epochs",
        )


def _by_seconds(trial: Trial) -> tuple[float, str]:
    return trial.seconds, trial.candidate.name


def _turn(trial: Trial) -> tuple[Any, ...]:
    """Cheap samplings come first; of one sampling the most images, so that the others are taken out of those."""
    sampling = trial.candidate.sampling
    return trial.passes, sampling.steps, sampling.guidance_scale, sampling.guidance_interval, -trial.images


def _row_seconds(engine: Engine, file: Path) -> float:
    """Seconds of a denoiser's row; measured once a folder, so that a second call predicts as the first did."""
    if not file.exists():
        write_atomic(file, f"{seconds_per_pass(engine) / engine.build.unet_batch:.9f}\n")
    return float(file.read_text(encoding="utf-8"))


def _facts(
    image_size: int, merged: Merged, validation: LabelledImages, recipe: Recipe, settings: TuneSettings
) -> dict[str, Any]:
    """What all candidates of a folder share, but for the engine."""
    arch, varied = settings.train.arch, {"steps", "guidance_scale", "guidance_interval"}
    return {
        **by_client(merged.clients, merged.digests),
        "sampling": recipe.sampling.model_dump(mode="json", exclude=varied),
        "validation": _digest(validation, settings.train.image_size or image_size),
        "training": settings.train.model_dump(mode="json"),
        "architecture": read_json_object(Path(arch), "architecture") if arch.endswith(".json") else arch,
    }


def _digest(images: LabelledImages, size: int) -> str:
    """sha256 of images as a model sees them, and of their classes."""
    digest = hashlib.sha256(json.dumps([images.labels.tolist(), images.class_names]).encode())
    for index in range(len(images)):
        digest.update(images.pixels(index, size).tobytes())
    return digest.hexdigest()
