"""The demo's training beside others: accuracy on many real images, and the seconds of all epochs.

The images are those that `benchmarks.server_seconds` drew, three data sets, trained on in turn. The demo's settings
were chosen on them, by such real images: what shows that they hold is the demo's accuracy on its test images.
"""

import json
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.results_file import once, save_result
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.pipeline.settings import TRAIN
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train
from fglfast.training.settings import TrainSettings

LARGER = "resnet18-narrow"
WAYS = {
    "demo": TRAIN,
    "larger": TRAIN.model_copy(update={"arch": LARGER, "epochs": 12}),
    "plain": TrainSettings(arch=LARGER, image_size=TRAIN.image_size, epochs=20),
}
CHANGED = {"arch", "epochs", "batch_size", "learning_rate", "crop_padding", "erasing"}


def main(
    judges: Annotated[str, typer.Option(help="Real images that judge, PATH[:SPLIT].")],
    drawn: Annotated[Path, typer.Option(help="Where the data sets lie.")] = Path("runs/server-seconds"),
    sets: Annotated[int, typer.Option(min=1, help="How many of them.")] = 3,
    work: Annotated[Path, typer.Option(help="Folder of the models.")] = Path("runs/demo-training"),
) -> None:
    """Train and judge all of them, and save `benchmarks/results/demo-training.json`."""
    real = read_dataset(judges)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(sets):
        for way, settings in WAYS.items():
            asked, out = settings.model_copy(update={"seed": number}), work / f"{way}-{number}"
            find = partial(_run, drawn / f"now-{number}" / "synthetic", out, asked, real)
            runs[way].append(once(out.with_suffix(".json"), find))
            typer.echo(json.dumps({"way": way, "set": number, **runs[way][-1]}))
    rows = [row(way, found) for way, found in runs.items()]
    save_result("demo-training", {"judges": Path(judges).name, "images": len(real), "rows": rows})


def _run(synthetic: Path, out: Path, settings: TrainSettings, real: LabelledImages) -> dict[str, float]:
    trained = train(synthetic, out, settings, 1)
    return {"accuracy": evaluate(trained.model, real).accuracy, "seconds": trained.seconds}


def row(way: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """The medians of a way to train, the settings that tell it from the others, and its runs."""
    middle = {name: median(run[name] for run in runs) for name in ("accuracy", "seconds")}
    return {"way": way, **middle, **WAYS[way].model_dump(include=CHANGED), "runs": runs}


if __name__ == "__main__":
    typer.run(main)
