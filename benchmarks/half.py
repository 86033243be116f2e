"""Whether bfloat16 costs the global model anything: small classifiers on the same images in bfloat16 and in float32.

The images are those that `benchmarks.server_seconds` drew, of the same prompts and noise. One classifier a data set
says little: a seed of its training moves it by half a point. So each set teaches several, judged on many real images.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer

from benchmarks.global_model import SMALL
from benchmarks.results_file import save_result
from fglfast.images.dataset import read_dataset
from fglfast.pipeline.record import RunRecord
from fglfast.training.evaluate import evaluate
from fglfast.training.launch import train

DRAWN = {"bfloat16": "now", "float32": "float32"}


def main(
    judges: Annotated[str, typer.Option(help="Real images that judge, PATH[:SPLIT].")],
    drawn: Annotated[Path, typer.Option(help="Where the data sets lie.")] = Path("runs/server-seconds"),
    sets: Annotated[int, typer.Option(min=1, help="Data sets of each precision.")] = 3,
    classifiers: Annotated[int, typer.Option(min=1, help="Trained on each data set.")] = 3,
    work: Annotated[Path, typer.Option(help="Folder of the classifiers.")] = Path("runs/half"),
) -> None:
    """Train and judge all of them, and save `benchmarks/results/half.json`."""
    torch.set_num_threads(1)
    real = read_dataset(judges)
    rows: list[dict[str, Any]] = []
    for number in range(sets):
        for seed in range(10, 10 + classifiers):
            found: dict[str, Any] = {"set": number, "seed": seed}
            for precision, name in DRAWN.items():
                record = RunRecord.from_json(drawn / f"{name}-{number}" / "run.json")
                if record.engine.precision != precision:
                    raise typer.BadParameter(
                        f"{drawn / name}: drawn in {record.engine.precision}", param_hint="--drawn"
                    )
                training = SMALL.model_copy(update={"seed": seed})
                images, out = drawn / f"{name}-{number}" / "synthetic", work / f"{name}-{number}-{seed}"
                found[precision] = evaluate(train(images, out, training, 1).model, real).accuracy
            rows.append(found)
            typer.echo(json.dumps(found))
    save_result("half", {"judges": Path(judges).name, "images": len(real), **differences(rows), "rows": rows})


def differences(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy in each precision, and the difference in points with the range of the pairs."""
    points = [100 * (row["bfloat16"] - row["float32"]) for row in rows]
    means = {precision: round(mean(row[precision] for row in rows), 5) for precision in DRAWN}
    return {**means, "points": round(mean(points), 3), "least": round(min(points), 3), "most": round(max(points), 3)}


if __name__ == "__main__":
    typer.run(main)
