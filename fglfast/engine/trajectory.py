"""What the float32 model sees and says while it samples: the inputs an engine is judged and calibrated on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fglfast.generator.load import Generator, Shapes
from fglfast.generator.text_encoder import load_tokenizer, tokenize
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule


@dataclass(frozen=True)
class Trajectory:
    """One sampling by the float32 model.

    Attributes:
        token_ids: prompts [B,T].
        noise: where it began [B,C,H,W].
        text: text embeddings [B,L,D].
        projected: keys and values made of them [B,L,E].
        inputs: latents [B,C,H,W], timestep [B] and projected text of every step.
        outputs: the prediction of every step [B,C,H,W].
        latents: where it ended [B,C,H,W].
        schedule: how it got there.
    """

    token_ids: Tensor
    noise: Tensor
    text: Tensor
    projected: Tensor
    inputs: tuple[tuple[Tensor, Tensor, Tensor], ...]
    outputs: tuple[Tensor, ...]
    latents: Tensor
    schedule: Schedule


@torch.inference_mode()
def trajectory(
    generator: Generator, model: Path, shapes: Shapes, prompts: Sequence[str], steps: int, seed: int
) -> Trajectory:
    """Sample without guidance, keeping every pass; all of it lies where the generator does.

    Args:
        generator: the float32 networks.
        model: their folder.
        shapes: sizes of latents and text.
        prompts: one an image.
        steps: of the model's own solver.
        seed: of the starting noise.
    """
    inputs: list[tuple[Tensor, Tensor, Tensor]] = []
    outputs: list[Tensor] = []

    def recorded(latents_BCHW: Tensor, timestep_B: Tensor, text_BLE: Tensor) -> Tensor:
        prediction_BCHW: Tensor = generator.unet(latents_BCHW, timestep_B, text_BLE)
        inputs.append((latents_BCHW, timestep_B.clone(), text_BLE))
        outputs.append(prediction_BCHW)
        return prediction_BCHW

    device = next(generator.unet.parameters()).device
    token_ids_BT = torch.from_numpy(tokenize(load_tokenizer(model), prompts)).long().to(device)
    text_BLD = generator.text(token_ids_BT)
    projected_BLE = generator.projection(text_BLD)
    noise_BCHW = torch.randn(len(prompts), *shapes.latent, generator=torch.Generator().manual_seed(seed)).to(device)
    schedule = Schedule.of_model(model, Sampling(steps=steps, guidance_scale=1.0))
    latents_BCHW = sample(recorded, noise_BCHW, projected_BLE, projected_BLE[0], schedule)
    return Trajectory(
        token_ids_BT, noise_BCHW, text_BLD, projected_BLE, tuple(inputs), tuple(outputs), latents_BCHW, schedule
    )
