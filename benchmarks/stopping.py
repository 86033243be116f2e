"""The stop rule: accuracy at 500 images a class foretold from pilots of at most 100, and what stopping early saves.

A setting is a level of prompts, a seed of clients, noise and classifiers, and a side in pixels. Pilots and the
classifiers they foretell are trained alike; real images judge the pilots, others test. Seconds are of a processor's
core, whatever else the machine does.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results_file import once, save_result
from fglfast.client.embed import embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.pilots import PILOT, Judges, Pool, one_more, right, run_pilots
from fglfast.pipeline.scaling import POINTS, Law, Pilot
from fglfast.pipeline.stopping import Stopping, Until
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

LEVELS, SIDES = ("class", "instance"), (16, 24)
CLIENTS, BETA = 5, 0.01
POOL, MOST = 100, 500  # images a class: of the pilots, and of what they foretell


@dataclass(frozen=True)
class Case:
    """A setting, the folder of its data set and that of its figures."""

    level: str
    seed: int
    side: int
    data: Path
    folder: Path

    def kept(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A figure, measured once, with the seconds of a core that it took."""
        found: dict[str, Any] = once(self.folder / f"{name}.json", partial(timed, work))
        return found


def main(
    private: str = "fashion:private",
    judges: Annotated[str, typer.Option(help="Real images that judge the pilots.")] = "fashion:private",
    test: str = "fashion:test",
    recipe: str = "mini-few",
    backend: str = "openvino",
    gain: Annotated[float, typer.Option(help="Points for a thousand images at which the rule stops.")] = 0.2,
    seeds: int = 3,
    work: Annotated[Path, typer.Option(help="Folder of what is finished.")] = Path("runs/stopping"),
    engines: Path = Path("engines/build"),
) -> None:
    """Foretell and measure, setting by setting; the result holds all that are finished."""
    rows, asked = [], find_recipe(recipe).changed(backend=backend)
    for seed in range(seeds):
        for level in LEVELS:
            data = work / f"{level}-{seed}"
            drawing = once(data / "drawing.json", partial(_draw, private, level, seed, asked, data, engines))
            for side in SIDES:
                case = Case(level, seed, side, data / "synthetic", work / f"{level}-{seed}-{side}")
                rows.append(measure(case, read_dataset(judges), read_dataset(test), gain, drawing))
                typer.echo(json.dumps(rows[-1]))
                facts = {"recipe": recipe, "judges": Path(judges).name, "gain": gain, "pool": POOL, "most": MOST}
                save_result("stopping", facts | {"pilots": PILOT.model_dump(mode="json"), "settings": rows})


def measure(
    case: Case, judges: LabelledImages, test: LabelledImages, gain: float, drawing: dict[str, Any]
) -> dict[str, Any]:
    """What pilots foretell and what is so, of one setting."""
    names = Pool.of(case.data, 1, case.side).class_names
    present = np.arange(len(names))
    judge, tests = (
        Judges.of(images, names, present, case.side, most) for images, most in ((judges, 1000), (test, 5000))
    )
    first = case.kept("pilots", lambda: _pilots(case, judge))
    pilots, spent = tuple(Pilot(**pilot) for pilot in first["pilots"]), first["seconds"]
    foretold = Law.of(pilots).at(MOST)
    asked = {"plan": "", "judges": "", "judged_by": "", "most": MOST, "pilot_images": POOL, "classes": len(names)}
    record = Stopping(until=Until(points=gain), **asked).after(pilots, None)
    while not record.decided:
        block = record.images_per_class
        more = case.kept(f"pilot-{block}", partial(_one_more, case, block, judge))
        spent += more["seconds"]
        record = record.after((*record.pilots, Pilot(**more["pilot"])), None)
    chosen = record.images_per_class
    whole = case.kept(f"at-{MOST}", lambda: _trained(case, MOST, judge, tests))
    stopped = case.kept(f"at-{chosen}", lambda: _trained(case, chosen, judge, tests))
    image = drawing["seconds"] / drawing["images"] * len(names)  # of each class
    seconds = {"all": MOST * image + whole["seconds"], "pilots": spent}
    seconds["stopped"] = chosen * image + stopped["seconds"] + spent
    return {
        "level": case.level,
        "seed": case.seed,
        "side": case.side,
        "foretold": foretold.model_dump(),
        "measured": whole["judged"],
        "error": round(POINTS * (foretold.accuracy - whole["judged"]), 2),
        "chosen": chosen,
        "tested": {"all": whole["tested"], "stopped": stopped["tested"]},
        "lost": round(POINTS * (whole["tested"] - stopped["tested"]), 2),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "saved": round(1 - seconds["stopped"] / seconds["all"], 4),
        "pilots": [pilot.model_dump() for pilot in record.pilots],
    }


def timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What work finds, with its seconds of a core unless it counts them itself."""
    begun = time.process_time()
    found = work()
    return {"seconds": round(time.process_time() - begun, 3), **found}


def _draw(private: str, level: str, seed: int, asked: Recipe, data: Path, engines: Path) -> dict[str, Any]:
    """Draw the data set, in one go: what an earlier call began is gone on with, and its seconds are in proportion."""
    model, images = asked.model_folder(), read_dataset(private)
    engine = build_engine(asked, model, engines)
    parts = partition_dirichlet(images.labels, CLIENTS, BETA, seed)
    sent = [embed(images.select(own), f"client{k:03d}", model, level) for k, own in enumerate(parts)]  # type: ignore[arg-type]
    settings = SynthesisSettings(images_per_class=MOST, seed=seed, sampling=asked.sampling)
    begun = time.process_time()
    made = synthesize(engine, merge_payloads(sent), settings, data / "synthetic")
    return {"seconds": round(time.process_time() - begun, 3), "images": made.images}


def _pilots(case: Case, judge: Judges) -> dict[str, Any]:
    pool = Pool.of(case.data, POOL, case.side)
    found = run_pilots(pool, judge, PILOT.model_copy(update={"seed": 100 * case.seed}))
    return {"pilots": [pilot.model_dump() for pilot in found]}


def _one_more(case: Case, images_per_class: int, judge: Judges) -> dict[str, Any]:
    pool = Pool.of(case.data, images_per_class, case.side)
    return {"pilot": one_more(pool, judge, PILOT.model_copy(update={"seed": 100 * case.seed})).model_dump()}


def _trained(case: Case, images_per_class: int, judge: Judges, tests: Judges) -> dict[str, Any]:
    pool = Pool.of(case.data, images_per_class, case.side)
    begun = time.process_time()
    model = pool.train(np.arange(len(pool.labels_N)), PILOT.model_copy(update={"seed": 100 * case.seed + 99}))
    seconds = round(time.process_time() - begun, 3)
    return {"seconds": seconds, "judged": right(model, judge), "tested": right(model, tests)}


if __name__ == "__main__":
    typer.run(main)
