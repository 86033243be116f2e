"""What the float32 model sees and says while it samples: the inputs an engine is judged and calibrated on."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch.backends import cudnn

from fglfast.base.errors import BadInputError
from fglfast.engine.stock import run_pipeline, stock_pipeline
from fglfast.generator.load import Generator, assemble, load_modules
from fglfast.generator.shapes import Shapes
from fglfast.generator.text_part import load_text_part
from fglfast.generator.tokens import load_tokenizer
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.sampler.step_noise import Given, numbered

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

OURS = "fglfast"


@dataclass(frozen=True)
class Trajectory:
    """One sampling by the float32 model, on the CPU; S counts the passes of the UNet.

    Attributes:
        by: who sampled and decoded: a pipeline of diffusers, or `OURS` where none can.
        token_ids: prompts [B,T].
        noise: where it began [B,C,H,W].
        text: text embeddings [B,L,D].
        projected: keys and values made of them [B,L,E].
        seen: the latents of every pass [S,B,C,H,W].
        timesteps: the timestep of every pass [S,B].
        outputs: the prediction of every pass [S,B,C,H,W].
        latents: where it ended [B,C,H,W].
        images: what was decoded of them [B,3,S,S].
        schedule: how it got there.
    """

    by: str
    token_ids: Tensor
    noise: Tensor
    text: Tensor
    projected: Tensor
    seen: Tensor
    timesteps: Tensor
    outputs: Tensor
    latents: Tensor
    images: Tensor
    schedule: Schedule

    @property
    def inputs(self) -> tuple[tuple[Tensor, Tensor, Tensor], ...]:
        """Latents [B,C,H,W], timestep [B] and projected text of every pass."""
        return tuple(
            (latents, timestep, self.projected) for latents, timestep in zip(self.seen, self.timesteps, strict=True)
        )

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}


PASSES = ("seen", "timesteps", "outputs")  # their rows are the second dimension


@dataclass
class _Passes:
    """What passed through the networks, whoever called them; kept on the CPU."""

    seen: list[Tensor] = field(default_factory=list)
    timesteps: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)

    def keep_step(self, _unet: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor]) -> None:
        """Latents, timestep and prediction of a UNet."""
        latents_BCHW, timestep = inputs[:2]
        timestep_B = torch.as_tensor(timestep, dtype=torch.float32).expand(len(latents_BCHW))
        self.seen.append(latents_BCHW.cpu())
        self.timesteps.append(timestep_B.to("cpu", copy=True))
        self.outputs.append(output[0].cpu())

    def keep_images(self, _decoder: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        """Images of the VAE's decoder, before they are cut to [-1,1]."""
        self.images.append(output.cpu())


class Reference:
    """The float32 model that an engine is made of and held against; its weights are loaded once, when first asked for.

    Args:
        model: the diffusers directory.
        shapes: sizes of latents and text.
        sampling: whose solver is taken.
    """

    def __init__(self, model: Path, shapes: Shapes, sampling: Sampling) -> None:
        self.model, self.shapes, self.sampling = model, shapes, sampling

    @cached_property
    def _loaded(self) -> tuple[UNet2DConditionModel, AutoencoderKL, Generator]:
        """UNet and VAE as diffusers has them, and a generator over the same weights."""
        unet, vae = load_modules(self.model)
        return unet, vae, assemble(load_text_part(self.model), unet, vae, "cpu")

    def generator(self, device: str = "cpu") -> Generator:
        """Its networks, on that device: if they were on another, they move, and so do those handed out before."""
        unet, vae, generator = self._loaded
        for network in (unet, vae, generator.text, generator.projection, generator.unet):
            network.eval().requires_grad_(False).to(device)
        return generator

    def unguided(self, steps: int) -> tuple[Sampling, Schedule]:
        """Its solver in so many steps."""
        asked = self.sampling.changed(steps=steps, guidance_scale=1.0)
        return asked, Schedule.of_model(self.model, asked)

    def trajectory(self, prompts: Sequence[str], steps: int, seed: int, device: str = "cpu") -> Trajectory:
        """Sample without guidance, keeping every pass; one image after the other, so that one has to fit.

        Args:
            prompts: one an image.
            steps: of the solver.
            seed: of the starting noise.
            device: where PyTorch computes; what comes of it lies on the CPU.

        Raises:
            BadInputError: what comes out is not finite.
        """
        sampling, schedule = self.unguided(steps)
        generator = self.generator(device)
        token_ids_BT = torch.from_numpy(load_tokenizer(self.model).tokenize(prompts)).long()
        draws = torch.Generator().manual_seed(seed)
        noise_BCHW = torch.randn(len(prompts), *self.shapes.latent, generator=draws)
        unet, vae, _ = self._loaded
        rows = []
        for token_ids_1T, noise_1CHW in zip(token_ids_BT.split(1), noise_BCHW.split(1), strict=True):
            pipeline = stock_pipeline(self.model, unet, vae, sampling, schedule)
            rows.append(_sampled(pipeline, generator, token_ids_1T.to(device), noise_1CHW.to(device), schedule))
        run = _together(rows)
        _require_finite(run, self.model)
        return run


@torch.inference_mode()
def _sampled(
    pipeline: "DiffusionPipeline | None",
    generator: Generator,
    token_ids_BT: Tensor,
    noise_BCHW: Tensor,
    schedule: Schedule,
) -> Trajectory:
    """One sampling by a pipeline of diffusers, or by fglfast's own sampler where there is none."""
    unet = pipeline.unet if pipeline else generator.unet.unet
    with products(tf32=False), _watched(unet, generator.decoder.vae) as passes:
        text_BLD = generator.text(token_ids_BT)
        projected_BLE = generator.projection(text_BLD)
        if pipeline:
            with Given(numbered(noise_BCHW)):  # as `sample` does, here and where the engine is measured
                latents_BCHW = run_pipeline(pipeline, noise_BCHW, text_BLD, schedule)
        else:
            latents_BCHW = sample(generator.unet, noise_BCHW, projected_BLE, projected_BLE[0], schedule)
            generator.decoder(latents_BCHW)
    return Trajectory(
        by=pipeline.__class__.__name__ if pipeline else OURS,
        token_ids=token_ids_BT.cpu(),
        noise=noise_BCHW.cpu(),
        text=text_BLD.cpu(),
        projected=projected_BLE.cpu(),
        seen=torch.stack(passes.seen),
        timesteps=torch.stack(passes.timesteps),
        outputs=torch.stack(passes.outputs),
        latents=latents_BCHW.cpu(),
        images=passes.images[-1],
        schedule=schedule,
    )


def _together(rows: Sequence[Trajectory]) -> Trajectory:
    """Samplings by one schedule as one."""
    tensors = {
        name: torch.cat([row.tensors()[name] for row in rows], dim=int(name in PASSES)) for name in rows[0].tensors()
    }
    return Trajectory(by=rows[0].by, schedule=rows[0].schedule, **tensors)


@contextmanager
def products(tf32: bool) -> Iterator[None]:
    """Let a GPU compute float32 products and convolutions as what they are, or in TF32, which keeps 10 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with cudnn.flags(enabled=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _watched(unet: UNet2DConditionModel, vae: AutoencoderKL) -> Iterator[_Passes]:
    passes = _Passes()
    with ExitStack() as stack:
        stack.callback(unet.register_forward_hook(passes.keep_step).remove)
        stack.callback(vae.decoder.register_forward_hook(passes.keep_images).remove)
        yield passes


def _require_finite(run: Trajectory, model: Path) -> None:
    """Refuse a model that float32 PyTorch cannot sample, naming what failed first."""
    weights, solver = "use a model with sound weights", "name another scheduler under [sampling] in the recipe"
    stages = (
        ("the text encoder", run.text, weights),
        ("the UNet's first prediction", run.outputs[0], weights),
        (f"{run.schedule.scheduler} in {run.schedule.steps} steps", run.latents, f"{solver}; if none helps, {weights}"),
        ("the VAE's decoder", run.images, weights),
    )
    for what, tensor, hint in stages:
        if not tensor.isfinite().all():
            raise BadInputError(f"{model}: {what} ends in values that are not finite, in float32 PyTorch too", hint)
