"""What clients add where the generator knows what the server has no labels of: drawings, by their names, in a style.

`colour_parties` says in plain words who has what. In short: a generator learned captions ("name, style") and no class;
the server has it, the list of classes and labelled drawings of another style, a tenth of them or all; the clients have
drawings in their own style, their names, and know which belong to a class. Tested is on things of which no other party
has a drawing, in the clients' style. The generator is made by `fglfast pretrain --without-classes` from the files that
`--prepare` writes.

Every cell sees as many images while its model trains (FedAvg and centralized training: their rounds and epochs). What
has a setting of its own has it by the clients' held-out images: the generator's guidance scale, FedAvg's local rate and
statistics. A cell that is finished is read, not run; the table is saved after each seed.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.colour_parties import Parties, nearest, parties
from benchmarks.results_file import save_result
from benchmarks.tuned import held_out, summed, tuned
from fglfast.base.files import write_atomic
from fglfast.client.settings import LearnSettings
from fglfast.engine.recipe import Recipe
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Experiment, Partition, find_experiment
from fglfast.federation.method_names import Method
from fglfast.federation.records import Result
from fglfast.generator.inventory import save_inventory
from fglfast.generator.learning.make_inventory import InventorySettings, make_inventory
from fglfast.images.dataset import read_dataset
from fglfast.sampler.schedule import Sampling

GUIDANCE = (1.0, 2.0)
STEPS = 8  # of the sampler
TITLES = {
    "public-few": "public only, a tenth labelled",
    "public-all": "public only, all labelled",
    "server": "server only",
    "class": "FGL, class-level",
    "class-style": "FGL, class-level, style named",
    "names": "FGL, instance-level",
    "names-style": "FGL, instance-level, style named",
    "learned": "FGL, learned",
    "routed": "FGL, routed",
    "fedavg": "FedAvg, 20 rounds",
    "fedavg-one": "FedAvg, 20 rounds, one class a client",
    "centralized": "centralized",
}
EACH = {"partition": Partition(kind="classes", clients=8, each=1)}
TUNED = ("partition", "methods", "prompt_level", "captions", "chosen")  # what the cell of a tuned method changes
UNDRAWN = ("public-few", "public-all", "fedavg", "fedavg-one", "centralized")  # cells that no generator draws for


@dataclass(frozen=True)
class Bench:
    """What all cells share: the parties' files, the preset on them, and folders."""

    held: Parties
    base: Experiment
    model: Path
    work: Path
    engines: Path

    def run(self, cell: str, seeds: int, **changes: Any) -> tuple[Result, ...]:
        """A cell's results by seed; finished ones are read."""
        asked = self.base.model_copy(update={**changes, "seeds": tuple(range(seeds))})
        return run_experiment(asked, self.work / cell, self.engines).results

    def inventory(self) -> Path:
        """Adapters that the server learned from all of its drawings, transformed; made once."""
        path = self.work / "inventory.safetensors"
        if not path.exists():
            public = self.held.read("public-all")
            save_inventory(make_inventory(public, self.model, self.work / "inventory", InventorySettings()), path)
        return path

    def recipe(self, guidance: float) -> str:
        """A recipe file of the generator at a guidance scale."""
        path = self.work / f"guidance-{guidance:g}.toml"
        sampling = Sampling(steps=STEPS, guidance_scale=guidance)
        side = self.base.image_size
        recipe = Recipe(model=str(self.model), precision="float32", image_size=side, unet_batch=128, sampling=sampling)
        write_atomic(path, recipe.to_toml())
        return str(path)


def main(
    noto: Annotated[Path, typer.Option(help="The clients' style: a parquet file with image, label and caption.")],
    twemoji: Annotated[Path, typer.Option(help="The public style: the same things in the same order.")],
    model: Annotated[Path, typer.Option(help="Folder of the generator.")] = Path("runs/colour/generator/model"),
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/colour"),
    engines: Path = Path("engines/build"),
    cells: Annotated[str, typer.Option(help="Which rows, with commas.")] = ",".join(TITLES),
    seeds: int = 3,
    learn_steps: int = 150,
    prepare: Annotated[bool, typer.Option(help="Write the parties' files, and stop.")] = False,
) -> None:
    """Run the cells seed by seed, and save the table of those that are finished."""
    held = parties(noto, twemoji, work / "parties")
    if prepare:
        typer.echo(f"{held.generator}, {held.generator_captions}")
        return
    base = find_experiment("names").model_copy(update={"data": f"{held.folder}:private", "test": f"{held.folder}:test"})
    bench = Bench(held, base, model, work / "cells", engines)
    bench.work.mkdir(parents=True, exist_ok=True)
    made: dict[str, tuple[Result, ...]] = {}
    choices: dict[str, Any] = {}
    for count in range(1, seeds + 1):
        for cell in cells.split(","):
            made[cell] = _cell(bench, cell, count, choices, LearnSettings(steps=learn_steps))
            last = made[cell][-1]
            typer.echo(f"{TITLES[cell]}, seed {last.seed}: {last.test_accuracy:.1%}")
        _save(bench, made, choices)


def _cell(bench: Bench, cell: str, seeds: int, choices: dict[str, Any], learn: LearnSettings) -> tuple[Result, ...]:
    """One row's results."""
    plain = {"prompt_level": "class", "captions": "attributes"}
    if cell.startswith("public"):
        split = "public" if cell == "public-few" else cell
        seen = bench.base.train.epochs * bench.base.images_per_class * len(bench.held.read("test").class_names)
        epochs = max(1, round(seen / len(bench.held.read(split))))
        public = {"public": f"{bench.held.folder}:{split}", "public_epochs": epochs, "methods": ("public-only",)}
        return bench.run(cell, seeds, **plain, **public)
    if cell in UNDRAWN:
        method: Method = "centralized" if cell == "centralized" else "fedavg"
        asked = bench.base.model_copy(update=EACH if cell == "fedavg-one" else {})
        asked = tuned(asked, method, bench.work / "choices" / cell, bench.engines)
        choices[cell] = asked.chosen[method].model_dump(exclude_none=True)
        return bench.run(cell, seeds, **{key: getattr(asked, key) for key in TUNED})
    named = {"prompt_level": "instance", "captions": str(bench.held.captions)}
    if "guidance" not in choices:
        choices["guidance"] = _guidance(bench, {**named, "domain": bench.held.domain})
    drawn: dict[str, dict[str, Any]] = {
        "server": {**plain, "methods": ("server-only",)},
        "class": plain,
        "class-style": {**plain, "domain": bench.held.domain},
        "names": named,
        "names-style": {**named, "domain": bench.held.domain},
        "learned": {"prompt_level": "learned", "learn": learn, "domain": bench.held.domain},
        "routed": {"prompt_level": "routed", "domain": bench.held.domain},
    }
    if cell == "routed":
        drawn[cell]["inventory"] = bench.inventory()
    return bench.run(cell, seeds, **{"methods": ("fgl",), "recipe": bench.recipe(choices["guidance"]), **drawn[cell]})


def _guidance(bench: Bench, changes: dict[str, Any]) -> float:
    """The guidance scale whose images teach most, likewise."""

    def judge(scale: float) -> float:
        own = {**changes, "methods": ("fgl",), "recipe": bench.recipe(scale)}
        return held_out(bench.run(f"choices/guidance={scale:g}", 1, **own))

    return max(GUIDANCE, key=judge)


def _save(bench: Bench, made: dict[str, tuple[Result, ...]], choices: dict[str, Any]) -> None:
    held = bench.held
    test, shown = held.read("test"), read_dataset(str(held.generator))
    splits = {name: len(held.read(name)) for name in ("private", "test", "public", "public-all")}
    card = (bench.model / "README.md").read_text(encoding="utf-8")
    trained = {name: int(steps.replace(",", "")) for name, steps in re.findall(r"\n\| (vae|flow) \| ([\d,]+)", card)}
    save_result(
        "colour",
        {
            "images": {**splits, "generator": len(shown)},
            "nearest_of_generator": float(nearest(test, shown).min()),
            "generator_steps": trained,
            "experiment": bench.base.model_dump(mode="json", exclude={"data", "test", "public", "recipe", "seeds"}),
            "sampling_steps": STEPS,
            "choices": choices,
            "rows": [{"title": TITLES[cell], **summed(results)} for cell, results in made.items()],
        },
    )


if __name__ == "__main__":
    typer.run(main)
