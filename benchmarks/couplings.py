"""Which noise goes with which data: steps of training to what independent pairs end at, by coupling.

Two cases: eight Gaussians on the plane under two conditions, and Fashion-MNIST in mini's latents under its ten words.
Loss is the mean squared error of the velocity on held-out independent pairs, the same for all; quality is the sliced
Wasserstein distance between held-out data and what a few Euler steps make of fixed noise.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import ot
import torch
import typer
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.results_file import once, save_result
from fglfast.generator.architecture import MiniSettings, build_unet
from fglfast.generator.learning.couplings import COUPLINGS, CouplingName
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.flow import TIMESTEPS, Lesson, lesson
from fglfast.generator.learning.solvers import euler, uniform
from fglfast.generator.text import resolve_model
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset

EULER_STEPS, DRAWN, PROJECTIONS = 8, 1000, 256
FIGURES = ("effective", "loss", "distance")


@dataclass(frozen=True)
class Case:
    """What is learned: data [N,C,H,W], the condition of each [N], text of each condition [K,L,D], the network."""

    name: str
    data: Tensor
    condition: Tensor
    text: Tensor
    network: Callable[[], nn.Module]
    settings: FitSettings


def main(
    data: Annotated[str, typer.Option(help="Images of the second case.")] = "fashion:private",
    steps: Annotated[int, typer.Option(help="Of each training.")] = 1500,
    seeds: int = 3,
    work: Annotated[Path, typer.Option(help="Folder of what is finished; a second call redoes none.")] = Path(
        "runs/couplings"
    ),
) -> None:
    """Train once a case, coupling and seed, judging every tenth of the way."""
    cases = []
    for case in (gaussians(2 * steps), fashion(data, steps)):
        curves: dict[CouplingName, list[list[dict[str, float]]]] = {}
        for coupling in COUPLINGS:
            for seed in range(seeds):
                path = work / f"{case.name}-{coupling}-{case.settings.steps}-{seed}.json"
                curves.setdefault(coupling, []).append(once(path, partial(curve, case, coupling, seed)))
            typer.echo(json.dumps(verdict(coupling, curves)))
        rows = [verdict(coupling, curves) for coupling in curves]
        cases.append({"case": case.name, "steps": case.settings.steps, "rows": rows, "curves": curves})
    save_result("couplings", {"euler_steps": EULER_STEPS, "seeds": seeds, "cases": cases})


def verdict(coupling: CouplingName, curves: dict[CouplingName, list[list[dict[str, float]]]]) -> dict[str, Any]:
    """Where a coupling ends, medians over the seeds; how soon it got there, the README's table reads off the curves."""
    last = [points[-1] for points in curves[coupling]]
    return {"coupling": coupling, **{key: round(median(point[key] for point in last), 5) for key in FIGURES}}


def curve(case: Case, coupling: CouplingName, seed: int) -> list[dict[str, float]]:
    """One training, and what it was worth as it went on."""
    torch.manual_seed(seed)
    network, order = case.network(), torch.randperm(len(case.data), generator=torch.Generator().manual_seed(seed))
    held, taught = order[:DRAWN], order[DRAWN:]
    points: list[dict[str, float]] = []

    def ask(x: Tensor, t_B: Tensor, condition_B: Tensor) -> Tensor:
        answer: Tensor = network(x, TIMESTEPS * t_B, case.text[condition_B], return_dict=False)[0]
        return answer

    def learn(rows: Tensor, name: CouplingName, generator: torch.Generator) -> tuple[Lesson, Tensor]:
        given = lesson(case.data[rows], case.condition[rows], COUPLINGS[name](), generator)
        return given, ask(given.x, given.t, case.condition[rows])

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows = taught[torch.randint(len(taught), (batch_size,), generator=generator)]
        given, velocity = learn(rows, coupling, generator)
        fit.noted["effective"] = given.effective
        return given.loss(velocity)

    @torch.no_grad()
    def judge(step: int) -> None:
        generator = torch.Generator().manual_seed(1_000_003)
        given, velocity = learn(held, "independent", generator)
        noise = torch.randn(case.data[held].shape, generator=generator)
        drawn = euler(lambda x, t: ask(x, t, case.condition[held]), noise, uniform(EULER_STEPS))
        points.append(
            {
                "step": step,
                "loss": float(given.loss(velocity)),
                "distance": _distance(drawn, case.data[held]),
                "effective": fit.noted["effective"],
            }
        )

    with TemporaryDirectory() as folder:
        settings = case.settings.model_copy(update={"seed": seed})
        fit = Fit(f"{case.name} {coupling} {seed}", nn.ModuleDict({"network": network}), settings, Path(folder))
        fit.run(loss_function, judge, grid_every=settings.steps // 10)
    return points


def _distance(drawn: Tensor, real: Tensor) -> float:
    """Sliced Wasserstein distance of two sets, by the same directions every time."""
    sets = (tensor.flatten(1).double().numpy() for tensor in (drawn, real))
    return float(ot.sliced_wasserstein_distance(*sets, n_projections=PROJECTIONS, seed=0))


class Plane(nn.Module):
    """A velocity of two dimensions with a UNet's signature."""

    def __init__(self) -> None:
        super().__init__()
        width = 128
        self.layers = nn.Sequential(
            *(nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)),
        )

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor, return_dict: bool) -> tuple[Tensor]:
        inputs = torch.cat([x.flatten(1), timestep[:, None] / TIMESTEPS, text[:, 0]], 1)
        return (self.layers(inputs).view_as(x),)


def gaussians(steps: int) -> Case:
    """Eight on a circle, every other one under the second condition."""
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(8, (11_000,), generator=generator)
    angle = which * (2 * torch.pi / 8)
    centre = torch.stack([angle.cos(), angle.sin()], 1) * 2.0
    data = (centre + 0.15 * torch.randn(centre.shape, generator=generator)).view(-1, 2, 1, 1)
    settings = FitSettings(steps=steps, batch_size=128, learning_rate=2e-3, ema_decay=0.99, warmup_steps=50)
    return Case("gaussians", data, which % 2, torch.tensor([[[0.0]], [[1.0]]]), Plane, settings)


def fashion(source: str, steps: int) -> Case:
    """Latents of real images, and a UNet of a tenth of mini's size."""
    model, dataset = resolve_model("mini"), read_dataset(source)
    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32)
    encoder = TextEncoder.load(model)
    pixels = np.stack([dataset.pixels(index, 32) for index in range(len(dataset))])
    with torch.inference_mode():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        means = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(256)])
    latents = (vae.config.scaling_factor * means).clone()
    text = torch.from_numpy(encoder.encode(encoder.tokenize(dataset.class_names)))
    settings = FitSettings(steps=steps, batch_size=64, learning_rate=2e-3, ema_decay=0.99, warmup_steps=50)
    labels = torch.from_numpy(dataset.labels)
    return Case("fashion", latents, labels, text, partial(build_unet, MiniSettings(unet_channels=(32, 48))), settings)


if __name__ == "__main__":
    typer.run(main)
