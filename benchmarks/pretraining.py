"""What `fglfast pretrain` costs by size of networks and images: operations of its steps, counted without computing.

A model of a size is begun only once its cost is known; the ratio to the smallest, whose time is known, tells it.
"""

from collections.abc import Callable
from typing import Any, get_args

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results_file import save_result
from fglfast.generator.architecture import MiniSettings, Size, build_unet, build_vae
from fglfast.generator.learning.pretrain import PretrainSettings

SIDES = (32, 64, 128)
GIGA = 1e9


def main() -> None:
    """Count, and save `benchmarks/results/pretraining.json`."""
    default, rows = PretrainSettings(), list[dict[str, Any]]()
    for side in SIDES:
        for size in get_args(Size):
            vae, flow = step_operations(MiniSettings.of(size, side), default.vae.batch_size, default.flow.batch_size)
            whole = vae * default.vae.steps + flow * default.flow.steps
            rows.append({"size": size, "side": side, "vae": vae / GIGA, "flow": flow / GIGA, "whole": whole})
    for row in rows:
        row["beside"] = row["whole"] / rows[0]["whole"]
        typer.echo(
            f"{row['size']} at {row['side']}: {row['vae']:.1f} and {row['flow']:.1f} GFLOP, {row['beside']:.1f}x"
        )
    steps = {"vae": default.vae.steps, "flow": default.flow.steps}
    save_result("pretraining", {"steps": steps, "rows": rows})


def step_operations(model: MiniSettings, vae_batch: int, flow_batch: int) -> tuple[int, int]:
    """Operations of a step of the VAE and of the flow, forward and backward; the text encoder's are left out."""
    with torch.device("meta"):
        vae, unet = build_vae(model), build_unet(model)
        images = torch.empty(vae_batch, 3, model.image_size, model.image_size)
        latents = torch.empty(flow_batch, model.latent_channels, model.latent_size, model.latent_size)
        text, times = torch.empty(flow_batch, model.max_tokens, model.text_width), torch.empty(flow_batch)
        return (
            _counted(lambda: vae.decode(vae.encode(images).latent_dist.mean).sample.sum()),
            _counted(lambda: unet(latents, times, text).sample.sum()),
        )


def _counted(loss: Callable[[], torch.Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        loss().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())


if __name__ == "__main__":
    typer.run(main)
