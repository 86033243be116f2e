"""Every installed backend on one generator, in turn, against the ceiling: `fglfast bench`, kept as a result."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import UNet2DConditionModel

from benchmarks.results_file import save_result
from fglfast.base.console import stdout
from fglfast.base.files import finished_folder
from fglfast.engine.backends import worth_measuring
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.generator.architecture import (
    MiniSettings,
    build_text_encoder,
    build_tokenizer,
    build_vae,
    save_pipeline,
)
from fglfast.generator.families import random_model
from fglfast.generator.text import resolve_model
from fglfast.lab.bench.measure import BenchSettings, bench, contenders
from fglfast.lab.bench.table import table
from fglfast.sampler.schedule import Sampling


class Case(StrEnum):
    """What can be measured."""

    MINI = "mini"
    UNET_35M = "unet-35m"
    SD15 = "sd15"


BATCH = {Case.MINI: 64, Case.UNET_35M: 16, Case.SD15: 2}
LONGEST_ROUND = {Case.MINI: 300.0, Case.UNET_35M: 20.0, Case.SD15: 300.0}
WIDTH = 256
SIZES = MiniSettings(image_size=64, latent_channels=4, vae_channels=(32, 64, 128), text_width=WIDTH, max_tokens=77)


def main(
    case: Case,
    backends: Annotated[str, typer.Option(help="BACKEND or BACKEND:PRECISION, with commas.")] = "",
    batch: Annotated[int | None, typer.Option(min=2, help="Images drawn together.", show_default=False)] = None,
    rounds: int = 7,
    engines: Path = Path("engines/build"),
) -> None:
    """Measure one case and save `benchmarks/results/engines-CASE.json`.

    Without --backends: every backend that auto tries, and int8.
    """
    recipe, model = generator(case, engines)
    recipes = contenders(recipe, [backends or ",".join(worth_measuring())], batch or BATCH[case])
    record = bench(recipes, model, engines, BenchSettings(rounds=rounds, longest_round=LONGEST_ROUND[case]))
    stdout.print(table(record), markup=False)
    measured = record.model_dump(mode="json", exclude={"machine", "versions"})
    save_result(f"engines-{case.value}", measured)


def generator(case: Case, engines: Path) -> tuple[Recipe, Path]:
    """Whose networks are measured, and its recipe."""
    if case is Case.SD15:
        return find_recipe("sd15"), random_model("sd15", engines / "random-sd15")
    guided = Sampling(steps=20, guidance_scale=2.0)
    if case is Case.MINI:
        return find_recipe("mini").model_copy(update={"sampling": guided}), resolve_model("mini")
    recipe = Recipe(image_size=64, unet_batch=16, vae_batch=16, sampling=guided)
    return recipe, unet_35m(engines / "random-unet-35m")


def unet_35m(folder: Path) -> Path:
    """Random weights, 35 million in the UNet: 64x64 images, latents 4x16x16, channels 128, 256, 256; written once."""
    if folder.exists():
        return folder
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIZES.latent_size,
        in_channels=SIZES.latent_channels,
        out_channels=SIZES.latent_channels,
        block_out_channels=(128, 256, 256),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=32,
    )
    tokenizer = build_tokenizer(["a photograph"], SIZES.max_tokens)
    with finished_folder(folder) as unfinished:
        save_pipeline(unfinished, build_vae(SIZES), unet, build_text_encoder(SIZES, tokenizer), tokenizer)
    return folder


if __name__ == "__main__":
    typer.run(main)
