"""What the forms of a payload cost: bytes that all clients upload, and the global model's accuracy.

Same clients, engine and training; the payloads alone differ. Seeds change partition, noise and global model.
"""

import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, get_args

import typer

from benchmarks.global_model import accuracy
from benchmarks.results_file import once, save_result
from fglfast.client.embed import embed
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.images.partition import partition_dirichlet
from fglfast.payload import Form, save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.settings import SynthesisSettings

CLIENTS, BETA = 5, 0.01


def main(
    data: Annotated[str, typer.Option(help="Holds the splits private and test.")] = "fashion",
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/forms"),
    engines: Path = Path("engines/build"),
    recipe: str = "mini-few",
    level: Annotated[Literal["class", "instance"], typer.Option(help="Of the prompts.")] = "class",
    images_per_class: int = 100,
    seeds: int = 3,
) -> None:
    """Embed, draw, train and judge once a form and seed; save the table."""
    private, test, asked = read_dataset(f"{data}:private"), read_dataset(f"{data}:test"), find_recipe(recipe)
    engine = build_engine(asked, asked.model_folder(), engines)
    runs: dict[Form, list[dict[str, Any]]] = {form: [] for form in get_args(Form)}
    for seed in range(seeds):
        parts = partition_dirichlet(private.labels, CLIENTS, BETA, seed)
        for form, found in runs.items():
            folder = work / f"{level}-{images_per_class}-{form}-{seed}"
            drawn = SynthesisSettings(images_per_class=images_per_class, seed=seed, sampling=asked.sampling)
            clients = [private.select(own) for own in parts]
            found.append(
                once(folder / "found.json", partial(measure, engine, clients, level, form, drawn, test, folder))
            )
            typer.echo(json.dumps({"form": form, **found[-1]}))
    rows = [
        {
            "form": form,
            "accuracy": median(run["accuracy"] for run in found),
            "bytes": median(run["bytes"] for run in found),
            "runs": found,
        }
        for form, found in runs.items()
    ]
    facts = {"level": level, "clients": CLIENTS, "beta": BETA, "images_per_class": images_per_class}
    save_result("forms", {**facts, "rows": rows})


def measure(
    engine: Engine,
    clients: Sequence[LabelledImages],
    level: Literal["class", "instance"],
    form: Form,
    drawn: SynthesisSettings,
    test: LabelledImages,
    folder: Path,
) -> dict[str, Any]:
    """Embed, draw, train and judge; count what the clients send."""
    payloads = [embed(own, f"client{k}", engine.model, level, form) for k, own in enumerate(clients)]
    right = accuracy(engine, merge_payloads(payloads), drawn, test, folder, batch_size=64)
    with tempfile.TemporaryDirectory() as sent:
        uploaded = sum(save_payload(payload, Path(sent) / "payload.safetensors") for payload in payloads)
    return {"seed": drawn.seed, "bytes": uploaded, "accuracy": right}


if __name__ == "__main__":
    typer.run(main)
