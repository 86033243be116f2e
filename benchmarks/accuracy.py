"""The headline: one-shot accuracy on real test images, the seconds and bytes it took, and the README's picture."""

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure

from benchmarks.results_file import RESULTS, save_result
from fglfast.images.dataset import read_dataset
from fglfast.pipeline.one_shot import OneShot, run_one_shot
from fglfast.pipeline.record import RunRecord
from fglfast.report.run_page import real_samples, synthetic_samples

SHOWN = 10  # images a class in the picture


def main(
    private: str = "fashion:private",
    test: str = "fashion:test",
    images_per_class: int = 500,
    epochs: int = 30,
    recipe: str = "mini",
    arch: str = "resnet18-narrow",
    prompt_level: Annotated[str, typer.Option(help="class or instance")] = "class",
    seeds: int = 3,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/accuracy"),
    name: Annotated[str, typer.Option(help="Name of the result.")] = "accuracy",
) -> None:
    """Run one-shot FGL once a seed: the partition, the noise and the global model all change with it."""
    rows = []
    for seed in range(seeds):
        asked = OneShot(
            private=private,
            test=test,
            recipe=recipe,
            images_per_class=images_per_class,
            epochs=epochs,
            arch=arch,
            prompt_level=prompt_level,
            seed=seed,
        )
        record = run_one_shot(asked, work / f"{name}-{seed}")
        rows.append({"seed": seed, **_figures(record)})
        typer.echo(json.dumps(rows[-1]))
    accuracy = median(row["accuracy"] for row in rows)
    settings = asked.model_copy(update={"private": Path(private).name, "test": Path(test).name, "seed": 0})
    save_result(name, {"settings": settings.model_dump(mode="json"), "accuracy": accuracy, "runs": rows})
    if name == "accuracy":
        _picture(work / f"{name}-0", test)


def _figures(record: RunRecord) -> dict[str, Any]:
    upload = max(client.upload_bytes for client in record.clients)
    return {
        "accuracy": record.evaluation.accuracy,
        "calibration_error": round(record.evaluation.calibration_error, 4),
        "seconds": {stage.name: stage.seconds for stage in record.stages},
        "images_per_second": record.images_per_second,
        "network_share": record.network_share,
        "backend": record.engine.backend,
        "largest_upload_bytes": upload,
        "model_bytes": record.model_bytes,
        "model_over_upload": round(record.model_bytes / upload, 1),
    }


def _picture(run: Path, test: str) -> None:
    """Synthetic beside real, a class a row."""
    record = RunRecord.load(run / "run.json")
    synthetic = synthetic_samples(run / "synthetic", record.class_names, SHOWN)
    size = len(synthetic[record.class_names[0]][0])
    real = real_samples(read_dataset(test), size, SHOWN)
    figure = Figure(figsize=(9, 4.6), layout="constrained", dpi=110)
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("synthetic: what the server drew from the uploads", "real test images, never trained on")
    for axis, title, samples in zip(axes, titles, (synthetic, real), strict=True):
        rows = [np.concatenate(samples[name], axis=1) for name in record.class_names]
        axis.imshow(np.concatenate(rows), interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([size * (k + 0.5) for k in range(len(rows))], record.class_names, fontsize=8)
        axis.tick_params(length=0)
    figure.savefig(RESULTS / "synthetic-beside-real.png")


if __name__ == "__main__":
    typer.run(main)
