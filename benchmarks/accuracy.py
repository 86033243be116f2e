"""The headline: one-shot accuracy on real test images, the seconds and bytes it took, and the README's picture.

Beside it stands what the server reaches without any client, at the same architecture and training: `--arm public-only`
on its labelled images, `--arm server-only` on images drawn from the list of classes.
"""

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import typer
from matplotlib.figure import Figure

from benchmarks.global_model import public_accuracy, trained_accuracy
from benchmarks.results_file import RESULTS, save_result
from fglfast.client.embed import class_list, embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.one_shot import OneShot, run_one_shot
from fglfast.pipeline.record import RunRecord
from fglfast.report.run_page import real_samples, synthetic_samples
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.training.settings import TrainSettings

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
        folder = work / f"{name}-{seed}"
        found = _figures(run_one_shot(asked, folder)) if arm == "one-shot" else _alone(asked, public, folder)
        rows.append({"seed": seed, **found})
        typer.echo(json.dumps(rows[-1]))
    accuracy = median(row["accuracy"] for row in rows)
    settings = asked.model_copy(update={"private": Path(private).name, "test": Path(test).name, "seed": 0})
    facts = {"arm": arm, "public": Path(public).name, "settings": settings.model_dump(mode="json")}
    save_result(name, {**facts, "accuracy": accuracy, "runs": rows})
    if name == "accuracy":
        _picture(work / f"{name}-0", test)


def _alone(asked: OneShot, public: str, folder: Path) -> dict[str, Any]:
    """What the server reaches without any client, once; with public images from those, else from the classes' names."""
    done, begun = folder / "measured.json", time.monotonic()
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    test = read_dataset(asked.test)
    training = TrainSettings(arch=asked.arch, epochs=asked.epochs, image_size=asked.image_size, seed=asked.seed)
    if public:
        images = read_dataset(public).named(test.class_names)
        facts: dict[str, Any] = {"images": len(images)}
        right = public_accuracy(images, test, folder, training)
    else:
        recipe = find_recipe(asked.recipe)
        payload = embed(class_list(test.class_names), "server", recipe.model_folder())
        engine = build_engine(recipe, recipe.model_folder(), folder / "engines")
        drawn = SynthesisSettings(images_per_class=asked.images_per_class, seed=asked.seed, sampling=recipe.sampling)
        made = synthesize(engine, merge_payloads([payload]), drawn, folder / "synthetic")
        facts = {"images": made.images, "images_per_second": round(made.images / made.seconds, 2)}
        right = trained_accuracy(folder / "synthetic", test, folder, training)
    found = {"accuracy": right, **facts, "seconds": {"all": round(time.monotonic() - begun, 2)}}
    done.write_text(json.dumps(found))
    return found


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
