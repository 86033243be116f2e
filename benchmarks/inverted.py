"""One class a client, and images unlike all that the server knows: learned embeddings beside FedAvg.

The clients hold images of the bundled sample inverted (dark clothes on white), each of one class; the test images are
inverted too. The server has the list of classes, `mini`, which never saw such images, and as many labelled images as
they are. It does not know that its clients' are inverted: who does needs no client, but turns its own.

FedAvg's local rate and statistics are chosen by the clients' held-out images. The preset is `learned`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.learned import transformed
from benchmarks.results_file import save_result
from benchmarks.tuned import summed, tuned
from fglfast.client.settings import LearnSettings
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Experiment, find_experiment
from fglfast.federation.method_names import Method
from fglfast.federation.records import Result
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.lab.audit.shadows import write_parquet
from fglfast.training.batches import split

METHODS: tuple[Method, ...] = ("public-only", "fedavg", "fgl", "server-only", "centralized")
IMAGES = 1_000  # of all clients, and of the server


def main(
    public: Annotated[str, typer.Option(help="The server's labelled images, as they are: PATH[:SPLIT].")],
    work: Annotated[Path, typer.Option(help="What is finished; a second call redoes none.")] = Path("runs/inverted"),
    engines: Path = Path("engines/build"),
    learn_steps: Annotated[int, typer.Option(help="Of each client.")] = 300,
    images_per_class: Annotated[int, typer.Option(help="Drawn.")] = 300,
    seeds: int = 3,
) -> None:
    """Run all methods seed by seed, and save the table after each."""
    drawn = {"learn": LearnSettings(steps=learn_steps), "images_per_class": images_per_class}
    base = _on_files(public, work / "splits").model_copy(update=drawn)
    work = work / f"{learn_steps}-{images_per_class}"
    for count in range(1, seeds + 1):
        base = base.model_copy(update={"seeds": tuple(range(count))})
        made: dict[Method, tuple[Result, ...]] = {}
        choices: dict[str, Any] = {}
        for method in METHODS:
            asked = base.model_copy(update={"methods": (method,)})
            if method in ("fedavg", "centralized"):
                asked = tuned(asked, method, work / "choices", engines)
                choices[method] = asked.chosen[method].model_dump(exclude_none=True)
            elif method != "fgl":
                asked = asked.model_copy(update={"prompt_level": "class"})
            made[method] = run_experiment(asked, work / method, engines).results
            typer.echo(f"{method}, seed {count - 1}: {made[method][-1].test_accuracy:.1%}")
        _save(base, made, choices)


def _on_files(public: str, folder: Path) -> Experiment:
    """The preset on the inverted sample and a share of the public images, written once."""
    files = {name: folder / f"{name}.parquet" for name in ("private", "test", "public")}
    if not files["public"].exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(transformed(read_dataset("fashion:test"), "inverted"), files["test"])
        write_parquet(transformed(_some("fashion:private"), "inverted"), files["private"])
        write_parquet(_some(public), files["public"])
    named = {"data": "private", "test": "test", "public": "public"}
    return find_experiment("learned").model_copy(update={key: f"{folder}:{name}" for key, name in named.items()})


def _some(source: str) -> LabelledImages:
    """As many images of each class as the shares of all ask for."""
    images = read_dataset(source)
    return images.select(split(images.labels, IMAGES / len(images), seed=0)[1])


def _save(base: Experiment, made: dict[Method, tuple[Result, ...]], choices: dict[str, Any]) -> None:
    images = {key: len(read_dataset(getattr(base, key))) for key in ("data", "test", "public")}
    rows = [{"method": method, **summed(results)} for method, results in made.items()]
    shown = base.model_dump(mode="json", exclude={"data", "test", "public", "seeds"})
    save_result("inverted", {"images": images, "experiment": shown, "choices": choices, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
