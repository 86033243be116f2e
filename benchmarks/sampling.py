"""Which guidance and how many steps: accuracy of a classifier trained on what each setting draws.

Chosen on the private images, so that the test images stay unseen until the headline is measured.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.results_file import save_result
from fglfast.client.embed import embed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.text import resolve_model
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.one_shot import draw_and_train
from fglfast.pipeline.stages import Stages
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.training.evaluate import evaluate
from fglfast.training.settings import TrainSettings

SETTINGS = ((12, 1.0), (12, 1.5), (12, 2.0), (6, 1.0), (8, 1.0), (20, 1.0))


def main(
    work: Annotated[Path, typer.Option(help="Folder for what is drawn and trained.")] = Path("runs/sampling"),
    data: Annotated[str, typer.Option(help="Real images to embed and to choose on.")] = "fashion:private",
    images_per_class: int = 200,
    epochs: int = 20,
) -> None:
    """Draw, train and evaluate once a setting."""
    recipe, private = find_recipe("mini"), read_dataset(data)
    model = resolve_model(recipe.model)
    merged = merge_payloads([embed(private, "all", model, "class")])
    engine = build_engine(recipe, model, work / "engines")
    rows = []
    for steps, guidance in SETTINGS:
        name = f"steps{steps}-guidance{guidance:g}"
        asked = SynthesisSettings(
            images_per_class=images_per_class, sampling=Sampling(steps=steps, guidance_scale=guidance)
        )
        chosen = TrainSettings(arch="resnet18-narrow", epochs=epochs, image_size=64)
        made, trained = draw_and_train(engine, merged, asked, chosen, work / name, Stages(work / name))
        found = evaluate(trained.model, private)
        rows.append(
            {
                "steps": steps,
                "guidance_scale": guidance,
                "accuracy": found.accuracy,
                "images_per_second": round(made.images / made.seconds, 2),
            }
        )
        typer.echo(json.dumps(rows[-1]))
    backend = engine.build.backend
    save_result("sampling", {"images_per_class": images_per_class, "epochs": epochs, "backend": backend, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
