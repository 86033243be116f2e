"""The headline: one-shot accuracy on real test images, the seconds and bytes it took, and the README's picture.

Beside it stands what the server reaches without any client, at the same architecture and training: `--arm public-only`
on its labelled images, `--arm server-only` on images drawn from the list of classes.
"""

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import typer
from matplotlib.figure import Figure

from benchmarks.results_file import RESULTS, save_result
from fglfast.federation.alone import public_only, server_only
from fglfast.images.dataset import read_dataset
from fglfast.pipeline.demo import run_demo
from fglfast.pipeline.record import RunRecord
from fglfast.pipeline.settings import Demo
from fglfast.pipeline.stages import Stages
from fglfast.report.run_page import real_samples, synthetic_samples
from fglfast.training.evaluate import evaluate

SHOWN = 10  # images a class in the picture


def main(
    private: str = "fashion:private",
    test: str = "fashion:test",
    arm: Literal["one-shot", "server-only", "public-only"] = "one-shot",
    public: Annotated[str, typer.Option(help="The server's labelled images, of public-only.")] = "",
    images_per_class: int = 500,
    epochs: int = 30,
    recipe: str = "mini",
    arch: str = "resnet18-narrow",
    prompt_level: Annotated[str, typer.Option(help="class or instance")] = "class",
    seeds: int = 3,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/accuracy"),
    name: Annotated[str, typer.Option(help="Name of the result; accuracy-ARM.", show_default=False)] = "",
) -> None:
    """Run an arm once a seed: the partition, the noise and the global model all change with it."""
    name = name or ("accuracy" if arm == "one-shot" else f"accuracy-{arm}")
    if (arm == "public-only") != bool(public):
        raise typer.BadParameter("--arm public-only and --public PATH[:SPLIT] belong together")
    rows = []
    for seed in range(seeds):
        asked = Demo(
            private=private,
            test=test,
            recipe=recipe,
            images_per_class=images_per_class,
            prompt_level=prompt_level,
            train=Demo().train.model_copy(update={"arch": arch, "epochs": epochs}),
            seed=seed,
        )
        folder = work / f"{name}-{seed}"
        found = _figures(run_demo(asked, folder)) if arm == "one-shot" else _alone(asked, public, folder)
        rows.append({"seed": seed, **found})
        typer.echo(json.dumps(rows[-1]))
    accuracy = median(row["accuracy"] for row in rows)
    named = {"private": Path(private).name, "test": Path(test).name}
    settings = asked.model_dump(mode="json", exclude={"train", "seed"}) | named
    settings |= asked.train.model_dump(include={"arch", "epochs", "image_size"})
    save_result(
        name, {"arm": arm, "public": Path(public).name, "settings": settings, "accuracy": accuracy, "runs": rows}
    )
    if name == "accuracy":
        _picture(work / f"{name}-0", test)


def _alone(asked: Demo, public: str, folder: Path) -> dict[str, Any]:
    """What the server reaches without any client; with public images from those, else from the classes' names."""
    test, stages = read_dataset(asked.test), Stages(folder)
    if public:
        trained = public_only(read_dataset(public).named(test.class_names), asked.train, asked.seed, folder, stages)
    else:
        trained = server_only(asked, test.class_names, asked.seed, folder, folder / "engines", stages)
    images, seconds = trained.images + trained.validation_images, {stage.name: stage.seconds for stage in stages.done}
    rate = {"images_per_second": round(images / seconds["synthesize"], 2)} if "synthesize" in seconds else {}
    accuracy = evaluate(trained.model, test).accuracy
    return {"accuracy": accuracy, "images": images, **rate, "seconds": {**seconds, "all": round(stages.seconds, 2)}}


def _figures(record: RunRecord) -> dict[str, Any]:
    upload = max(client.upload_bytes for client in record.clients)
    return {
        "accuracy": record.evaluation.accuracy,
        "calibration_error": round(record.evaluation.ece, 4),
        "seconds": {stage.name: stage.seconds for stage in record.stages},
        "images_per_second": record.images_per_second,
        "network_share": record.network_share,
        "backend": record.engine.backend,
        "precision": record.engine.precision,
        "largest_upload_bytes": upload,
        "model_bytes": record.model_bytes,
        "model_over_upload": round(record.model_bytes / upload, 1),
    }


def _picture(run: Path, test: str) -> None:
    """Synthetic beside real, a class a row."""
    record = RunRecord.from_json(run / "run.json")
    synthetic = synthetic_samples(run / "synthetic", record.class_names, record.class_names, SHOWN)
    size = len(synthetic[record.class_names[0]][0])
    real = real_samples(read_dataset(test), size, record.class_names, SHOWN)
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
