"""What routing gains beside learned embeddings, in accuracy, steps and bytes: on domains that its inventory never saw.

The server learns one inventory on its public images under all public transformations but the domains that are measured;
clients hold images of such a domain. All else is as in `benchmarks.learned`: the same clients, engine, images per class
and training in every row. Learned and routed clients see the same images through the same frozen generator.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.global_model import accuracy
from benchmarks.learned import transformed
from benchmarks.results_file import once, save_result
from fglfast.client.embed import embed
from fglfast.client.learn import learn
from fglfast.client.privacy import Budget
from fglfast.client.route import route
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.inventory import save_inventory
from fglfast.generator.learning.make_inventory import InventorySettings, make_inventory
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.images.transformations import TRANSFORMATIONS
from fglfast.payload import Payload, load_payload, save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.routed import Router
from fglfast.synthesis.settings import SynthesisSettings

UNSEEN = ("inverted", "rotated")  # transformations that no inventory is learned under
KEPT = tuple(name for name in TRANSFORMATIONS if name not in UNSEEN)
Found = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What all rows share; the inventory is learned from the public images."""

    folder: Path
    model: Path
    public: LabelledImages
    learn: LearnSettings
    route: RouteSettings
    inventory: InventorySettings
    budget: Budget

    @cached_property
    def adapters(self) -> Path:
        """The inventory's file, made when it is first asked for."""
        path = self.folder / "inventory.safetensors"
        if not path.exists():
            save_inventory(make_inventory(self.public, self.model, self.folder / "inventory", self.inventory), path)
        return path

    @cached_property
    def router(self) -> Router:
        """Makes rows of routing."""
        return Router(self.model, self.adapters)

    def rows(self) -> dict[str, Callable[[LabelledImages, str, Path], Payload]]:
        """By row: a client's images, name and folder to its payload."""
        return {
            "class-level": lambda own, name, _: embed(own, name, self.model),
            "routed": lambda own, name, state: self.routed(own, name, state, None),
            f"routed, epsilon {self.budget.epsilon:g}": lambda own, name, state: self.routed(
                own, name, state, self.budget
            ),
            "learned": lambda own, name, state: learn(own, name, self.model, state, self.learn).payload,
        }

    def routed(self, own: LabelledImages, name: str, state: Path, budget: Budget | None) -> Payload:
        """A client's routing."""
        return route(own, name, self.model, self.adapters, state, self.route, budget=budget).payload


def main(
    data: Annotated[str, typer.Option(help="Holds the splits private, public and test.")],
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/routed"),
    engines: Path = Path("engines/build"),
    recipe: str = "mini",
    domains: Annotated[str, typer.Option(help="Some of inverted and rotated, with commas.")] = "inverted",
    clients: int = 5,
    beta: float = 0.01,
    images_per_class: int = 100,
    learn_steps: int = 150,
    route_steps: int = 30,
    inventory_steps: int = 500,
    epsilon: float = 3.0,
    seeds: int = 1,
) -> None:
    """Learn, route, draw, train and judge; save the table."""
    private, test, base = read_dataset(f"{data}:private"), read_dataset(f"{data}:test"), find_recipe(recipe)
    engine = build_engine(base, base.model_folder(), engines)
    shared = Work(
        work,
        engine.model,
        read_dataset(f"{data}:public"),
        LearnSettings(steps=learn_steps),
        RouteSettings(steps=route_steps),
        InventorySettings(steps=inventory_steps, transformations=KEPT),
        Budget(epsilon=epsilon, delta=1e-5),
    )
    asked = SynthesisSettings(images_per_class=images_per_class, sampling=base.sampling)
    found: dict[tuple[str, str], list[Found]] = {}
    for seed in range(seeds):
        parts = partition_dirichlet(private.labels, clients, beta, seed)
        for domain in domains.split(","):
            held = {f"client{number}": transformed(private.select(rows), domain) for number, rows in enumerate(parts)}
            judged = transformed(test, domain)
            for row, make in shared.rows().items():
                folder = work / f"{domain}-{seed}" / row.replace(",", "").replace(" ", "-")
                sent = uploads(held, make, shared, folder)
                drawn = asked.model_copy(update={"seed": seed})
                right = once(folder / "measured.json", partial(measure, engine, shared, drawn, judged, folder))
                found.setdefault((domain, row), []).append({"seed": seed, **sent, **right})
                typer.echo(json.dumps({"domain": domain, "row": row, "seed": seed, **sent, **right}))
    save_result(
        "routed",
        {
            "clients": clients,
            "beta": beta,
            "images_per_class": images_per_class,
            "backend": engine.build.backend,
            "learn_steps": learn_steps,
            "route_steps": route_steps,
            "epsilon": epsilon,
            "inventory": shared.inventory.model_dump(mode="json"),
            "inventory_bytes": shared.adapters.stat().st_size,
            "rows": [
                {"domain": domain, "prompts": row, "test": median(run["test"] for run in runs), "runs": runs}
                for (domain, row), runs in found.items()
            ],
        },
    )


def measure(engine: Engine, shared: Work, drawn: SynthesisSettings, test: LabelledImages, folder: Path) -> Found:
    """The accuracy of a global model trained on what the payloads in a folder draw."""
    files = sorted((folder / "clients").glob("*.safetensors"))
    merged = merge_payloads(shared.router.rows(load_payload(path)) for path in files)
    return {"test": accuracy(engine, merged, drawn, test, folder)}


def uploads(
    held: dict[str, LabelledImages], make: Callable[[LabelledImages, str, Path], Payload], shared: Work, folder: Path
) -> Found:
    """Every client's payload once; the bytes of all, and the seconds that making them took."""
    _ = shared.adapters if "routed" in folder.name else None  # not in a client's seconds
    spent = []
    for name, own in held.items():
        path = folder / "clients" / f"{name}.safetensors"

        def sent(own: LabelledImages = own, name: str = name, path: Path = path) -> Found:
            started = time.perf_counter()
            size = save_payload(make(own, name, folder / "learning" / name), path)
            return {"bytes": size, "seconds": round(time.perf_counter() - started, 1)}

        spent.append(once(folder / f"{name}.json", sent))
    return {key: round(sum(each[key] for each in spent), 1) for key in ("bytes", "seconds")}


if __name__ == "__main__":
    typer.run(main)
