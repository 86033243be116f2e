"""Images a second by shard size, in turn: passes are filled across shards, so small ones cost what files cost."""

import json
import statistics
import tempfile
from pathlib import Path

import typer

from benchmarks.results_file import save_result
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.lab.bench.work import payload_rows, quiet
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

SIZES = (512, 16, 1)  # images a shard


def main(
    recipe: str = "mini-few", images_per_class: int = 100, rounds: int = 5, engines: str = "engines/build"
) -> None:
    """Draw the same images into shards of each size, round after round."""
    asked = find_recipe(recipe)
    engine = build_engine(asked, asked.model_folder(), Path(engines))
    merged = payload_rows(engine)
    rates: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(rounds):
        for size in SIZES:
            settings = SynthesisSettings(
                images_per_class=images_per_class, shard_size=size, sampling=asked.sampling, seed=len(rates[size])
            )
            with tempfile.TemporaryDirectory() as folder, quiet():
                made = synthesize(engine, merged, settings, Path(folder))
            rates[size].append(made.images / made.seconds)
    medians = {str(size): round(statistics.median(found), 2) for size, found in rates.items()}
    typer.echo(json.dumps(medians))
    save_result("shard-sizes", {"recipe": recipe, "rounds": rounds, "images_per_second": medians})


if __name__ == "__main__":
    typer.run(main)
