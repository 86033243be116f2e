"""What learned embeddings gain where words do not reach: the global model's accuracy on domains `mini` never saw.

A domain is made of a data set by a transform of its images, the clients' and the test images alike. Every row has the
same clients, engine, images per class and training; only the payloads differ. Seeds change partition, noise and model.
Beside them stands what the server reaches without any client, from the list of classes and, where there are some, from
its public images: those it has as they are, so they lack the domain.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.global_model import SMALL, accuracy, public_accuracy, public_split
from benchmarks.results_file import once, save_result
from fglfast.client.embed import class_list, embed
from fglfast.client.learn import learn
from fglfast.client.settings import LearnSettings
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages, Opener
from fglfast.images.partition import partition_dirichlet
from fglfast.images.transformations import TRANSFORMATIONS
from fglfast.payload import Payload
from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.settings import SynthesisSettings

PUBLIC, SERVER = "public only", "server only"
NAMED = "class-level, domain named"
ROWS = (PUBLIC, SERVER, "class-level", NAMED, "learned")


@dataclass(frozen=True)
class Case:
    """A domain and a seed: what all rows share. The server's public images, if it has some, are not of the domain."""

    domain: str
    seed: int
    clients: dict[str, LabelledImages]
    test: LabelledImages
    public: LabelledImages | None
    folder: Path


def main(
    data: Annotated[
        str, typer.Option(help="Holds the splits private and test, and public if there is one.")
    ] = "fashion",
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/learned"),
    engines: Path = Path("engines/build"),
    recipe: str = "mini",
    domains: Annotated[
        str, typer.Option(help="Some of inverted, rotated and unchanged, with commas.")
    ] = "inverted,rotated",
    clients: int = 5,
    beta: float = 0.01,
    images_per_class: int = 500,
    steps: int = LearnSettings().steps,
    vectors: int = LearnSettings().vectors,
    seeds: int = 3,
) -> None:
    """Learn, draw, train and judge; save the table."""
    private, test, base = read_dataset(f"{data}:private"), read_dataset(f"{data}:test"), find_recipe(recipe)
    named = public_split(data)
    public = read_dataset(named) if named else None
    engine = build_engine(base, base.model_folder(), engines)
    asked = SynthesisSettings(images_per_class=images_per_class, sampling=base.sampling)
    settings = LearnSettings(steps=steps, vectors=vectors)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in range(seeds):
        parts = partition_dirichlet(private.labels, clients, beta, seed)
        for domain in domains.split(","):
            held = {f"client{number}": transformed(private.select(rows), domain) for number, rows in enumerate(parts)}
            folder = work / f"{domain}-{seed}-{clients}-{beta:g}-{steps}-{vectors}-{images_per_class}"
            case = Case(domain, seed, held, transformed(test, domain), public, folder)
            for row in ROWS if public else ROWS[1:]:
                own = case.folder / row.replace(",", "").replace(" ", "-")
                measured = once(own / "measured.json", partial(measure, engine, case, row, asked, settings, own))
                found.setdefault((domain, row), []).append(measured)
                typer.echo(json.dumps({"domain": domain, "row": row, **measured}))
    save_result(
        "learned",
        {
            "clients": clients,
            "beta": beta,
            "images_per_class": images_per_class,
            "backend": engine.build.backend,
            "learn": settings.model_dump(mode="json"),
            "rows": [
                {"domain": domain, "prompts": row, "test": median(run["test"] for run in runs), "runs": runs}
                for (domain, row), runs in found.items()
            ],
        },
    )


def transformed(dataset: LabelledImages, domain: str) -> LabelledImages:
    """The images of a data set in another domain, one of `TRANSFORMATIONS`."""

    def opener(opened: Opener) -> Opener:
        return lambda: TRANSFORMATIONS[domain](opened())

    return replace(dataset, openers=tuple(map(opener, dataset.openers)))


def measure(
    engine: Engine, case: Case, row: str, asked: SynthesisSettings, settings: LearnSettings, folder: Path
) -> dict[str, Any]:
    """One row."""
    losses: list[tuple[float, float]] = []
    if row == PUBLIC:
        assert case.public is not None
        learnt = case.folder.parent / f"public-{case.seed}"  # one model for all domains
        right = public_accuracy(case.public, case.test, learnt, SMALL.model_copy(update={"seed": case.seed}))
    else:
        made, losses = payloads(engine.model, case, row, settings)
        drawn = asked.model_copy(update={"seed": case.seed})
        right = accuracy(engine, merge_payloads(made), drawn, case.test, folder)
    return {"seed": case.seed, "test": right, "losses": losses}


def payloads(
    model: Path, case: Case, row: str, settings: LearnSettings
) -> tuple[list[Payload], list[tuple[float, float]]]:
    """The clients' payloads; of learned ones also the loss under the class prompts and under what was learned."""
    if row == "learned":
        state = case.folder / "learning"
        made = [learn(own, name, model, state / name, settings) for name, own in case.clients.items()]
        return [each.payload for each in made], [(each.class_level, each.learned) for each in made]
    if row == SERVER:
        return [embed(class_list(case.test.class_names), "server", model)], []
    word = case.domain if row == NAMED else None
    return [embed(own, name, model, domain=word) for name, own in case.clients.items()], []


if __name__ == "__main__":
    typer.run(main)
