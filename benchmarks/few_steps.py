"""What fewer, straighter steps cost and gain: the global model's accuracy and images a second, by generator and steps.

Every row draws the same images per class from the same payload with the same engine settings, and trains the same
small ResNet on them. The seeds go round: all rows with the first, then all with the second. Images a second come from
rounds of their own at the end, in which all rows take turns. Students learn class-level and instance-level prompts half
and half; what is drawn here is class-level.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks import results_file
from benchmarks.global_model import SMALL
from benchmarks.results_file import once, renewals, save_result
from fglfast.client.embed import embed
from fglfast.distill.distill import FIT, DistillSettings, distill
from fglfast.distill.steps import place
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.payload.merge import Merged, merge_payloads
from fglfast.pipeline.one_shot import draw_and_train
from fglfast.pipeline.stages import Stages
from fglfast.sampler.schedule import Sampling
from fglfast.sampler.spacing import aligned_levels
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.evaluate import evaluate

DRAWN_AT_ONCE = 32  # images a class
GUIDANCE = 1.5  # the better of 1.5 and 2 on the private images: sampling.json
TEACHER = Sampling(steps=20, guidance_scale=1.0)
BUDGET = FIT.model_copy(update={"steps": 2000})  # of every student's every network
STUDENTS: dict[str, DistillSettings] = {
    "reflow": DistillSettings(method="reflow", steps=4, teacher=TEACHER, fit=BUDGET),
    "reflow of a guided teacher": DistillSettings(
        method="reflow",
        steps=4,
        teacher=TEACHER.changed(guidance_scale=GUIDANCE),
        pairs_per_class=1000,  # a pair costs twice as much
        fit=BUDGET,
    ),
    "reflow in two narrow blocks": DistillSettings(
        method="reflow", steps=4, teacher=TEACHER, blocks=2, channels=(96, 128), fit=BUDGET
    ),
    "marginal-data transport": DistillSettings(
        method="mdt",
        steps=1,
        teacher=TEACHER,
        fit=BUDGET.model_copy(update={"steps": 450}),
    ),
}


@dataclass(frozen=True)
class Row:
    """A way to draw: its title, the paper's arXiv number, how, and with which generator."""

    title: str
    source: str
    sampling: Sampling
    recipe: Recipe = field(repr=False)

    @property
    def key(self) -> str:
        """Names it among the others."""
        return f"{self.title}, {self.sampling.steps} steps, guidance {self.sampling.guidance_scale:g}"


def main(
    data: Annotated[str, typer.Option(help="Holds the splits private and test.")] = "fashion",
    work: Annotated[Path, typer.Option(help="Students, and what is finished; a second call redoes none.")] = Path(
        "runs/few-steps"
    ),
    engines: Path = Path("engines/build"),
    recipe: str = "mini",
    images_per_class: int = 300,
    seeds: Annotated[str, typer.Option(help="Numbers, with commas.")] = "0,1,2",
    rounds: Annotated[int, typer.Option(help="Of measuring images a second; 0 with --only keeps those rates.")] = 5,
    students: Annotated[str, typer.Option(help="Some of them, with commas.")] = ",".join(STUDENTS),
    only: Annotated[str, typer.Option(help="Measure the rows again whose name holds this; the others stay.")] = "",
) -> None:
    """Make the students, draw and train with everything, save the table."""
    private, test, base = read_dataset(f"{data}:private"), read_dataset(f"{data}:test"), find_recipe(recipe)
    model = base.model_folder()
    merged = merge_payloads([embed(private, "all", model, "class")])
    taught = merge_payloads(embed(private, level, model, level) for level in ("class", "instance"))
    teacher = build_engine(base, model, engines)
    rows = teachers(base, teacher, merged)
    made = {}
    for name in students.split(","):
        if only in f"student, {name}":
            written, made[name] = distill(teacher, taught, base, STUDENTS[name], with_pairs(work, name))
            rows += of_student(name, find_recipe(str(written)))
    rows = [row for row in rows if only in row.key]
    found_rows: dict[str, list[dict[str, Any]]] = {}
    for seed in map(int, seeds.split(",")):
        for row in rows:
            engine = build_engine(row.recipe, row.recipe.model_folder(), engines)
            folder = work / "rows" / row.key
            asked = SynthesisSettings(images_per_class=images_per_class, seed=seed, sampling=row.sampling)
            find = partial(measure, engine, merged, asked, folder / str(seed), private, test)
            measured = once(folder / f"{images_per_class}-{seed}.json", find)
            found_rows.setdefault(row.key, []).append(measured)
            typer.echo(json.dumps({"row": row.key, **measured}))
    paces = take_turns(rows, merged, engines, rounds)
    result = {
        "images_per_class": images_per_class,
        "backend": teacher.build.backend,
        "students": {name: found.settings.model_dump(mode="json") for name, found in made.items()},
        "bends": {name: found.model_dump(mode="json", include={"before", "after"}) for name, found in made.items()},
        "cost": {name: found.cost.model_dump(mode="json") for name, found in made.items()},
        "rows": [summed(row, found_rows[row.key], paces[row.key]) for row in rows],
    }
    if only:
        result = renewed(results_file.result("few-steps"), result, only)
    save_result("few-steps", result)


def with_pairs(work: Path, name: str) -> Path:
    """A student's folder; those of one teacher learn from the same pairs."""
    folder, first = work / name.replace(" ", "-"), work / "reflow" / "pairs"
    if STUDENTS[name].teacher == TEACHER and first.exists() and not (folder / "pairs").exists():
        shutil.copytree(first, folder / "pairs")
    return folder


def teachers(base: Recipe, engine: Engine, merged: Merged) -> list[Row]:
    """The teacher, guided and not; four steps of it as each rule places them."""
    guided = [(50, GUIDANCE), (20, GUIDANCE)]
    free = [(20, 1.0), (8, 1.0), (4, 1.0), (2, 1.0), (1, 1.0)]
    solver = [
        Row("teacher, DPM-Solver++", "2211.01095", Sampling(steps=steps, guidance_scale=scale), base)
        for steps, scale in [*guided, *free]
    ]
    euler = Sampling(steps=4, scheduler="flow-euler", guidance_scale=1.0)
    unguided = base.model_copy(update={"sampling": euler})
    placed = place(engine, merged, unguided, 4, 60, 64).timesteps
    return [
        *solver,
        Row("teacher, Euler, equal steps", "2209.03003", euler, base),
        Row("teacher, Euler, BOSS", "2312.16414", euler.model_copy(update={"timesteps": placed}), base),
        Row("teacher, Euler, AYS", "2404.14507", euler.model_copy(update={"timesteps": on_the_linear_path(4)}), base),
    ]


def on_the_linear_path(steps: int) -> tuple[float, ...]:
    """Align Your Steps for Stable Diffusion at the same ratios of noise to data, t / (1 - t) on the linear path.

    The first begins where there is nothing but noise, which Stable Diffusion's table does not reach.
    """
    sigmas = aligned_levels(steps, xl=False)[1:]
    return (1000.0, *(round(float(1000 * sigma / (1 + sigma)), 3) for sigma in sigmas))


def of_student(name: str, recipe: Recipe) -> list[Row]:
    """At its own number of steps and fewer."""
    sources = {"reflow in two narrow blocks": "2510.21167", "marginal-data transport": "2509.04406"}
    source = sources.get(name, "2209.03003")
    counts = (4, 2, 1) if recipe.sampling.steps == 4 else (2, 1)
    return [Row(f"student, {name}", source, recipe.sampling.changed(steps=count), recipe) for count in counts]


def measure(
    engine: Engine,
    merged: Merged,
    asked: SynthesisSettings,
    folder: Path,
    private: LabelledImages,
    test: LabelledImages,
) -> dict[str, Any]:
    """Draw, train and judge."""
    _, trained = draw_and_train(engine, merged, asked, SMALL, folder, Stages(folder))
    return {
        "seed": asked.seed,
        "test": evaluate(trained.model, test).accuracy,
        "private": evaluate(trained.model, private).accuracy,
        "training_seconds": round(trained.seconds, 1),
    }


def take_turns(rows: Sequence[Row], merged: Merged, engines: Path, rounds: int) -> dict[str, list[float]]:
    """Images a second of every row, round by round, from payloads to written shards."""
    asked = SynthesisSettings(images_per_class=DRAWN_AT_ONCE)
    paces: dict[str, list[float]] = {row.key: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            engine = build_engine(row.recipe, row.recipe.model_folder(), engines)
            with TemporaryDirectory() as folder:
                made = synthesize(engine, merged, asked.model_copy(update={"sampling": row.sampling}), Path(folder))
            paces[row.key].append(round(made.images / made.seconds, 2))
    return paces


def summed(row: Row, runs: Sequence[dict[str, Any]], paces: Sequence[float]) -> dict[str, Any]:
    """A row of the result: medians over the seeds and the rounds, and each; without rounds, no rate."""
    return {
        "title": row.title,
        "source": row.source,
        "sampling": row.sampling.model_dump(mode="json"),
        **{key: median(run[key] for run in runs) for key in ("test", "private")},
        **({"images_per_second": median(paces), "paces": list(paces)} if paces else {}),
        "runs": list(runs),
    }


def renewed(old: dict[str, Any], new: dict[str, Any], only: str) -> dict[str, Any]:
    """A result with some rows measured again; they keep their rates unless those were measured too.

    It keeps its circumstances and says under "renewed" what was measured in which others.
    """
    again = {_which(row): row for row in new["rows"]}
    return old | {
        **{key: old.get(key, {}) | new[key] for key in ("students", "bends", "cost")},
        "rows": [row | again.get(_which(row), {}) for row in old["rows"]],
        "renewed": renewals(old, only),
    }


def _which(row: dict[str, Any]) -> tuple[str, int, float]:
    return row["title"], row["sampling"]["steps"], row["sampling"]["guidance_scale"]


if __name__ == "__main__":
    typer.run(main)
