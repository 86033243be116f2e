"""Train the small text-to-image model: a VAE, then text encoder and UNet by latent flow matching.

`pretrain` may be killed at any time and run again: each stage goes on from its checkpoint.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fglfast.base.config import Settings
from fglfast.base.console import Progress, note
from fglfast.base.errors import UsageError
from fglfast.base.files import claim, finished_folder, placing, write_atomic
from fglfast.base.machine import native_bfloat16
from fglfast.generator.architecture import (
    MiniSettings,
    build_text_encoder,
    build_unet,
    build_vae,
    save_pipeline,
)
from fglfast.generator.learning.card import model_card
from fglfast.generator.learning.couplings import COUPLINGS, Coupling, CouplingName
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.flow import TIMESTEPS, lesson
from fglfast.generator.learning.prompting import CAPTIONS, CLASSES, fitting, prompts_of
from fglfast.generator.learning.solvers import euler, guided, uniform
from fglfast.generator.learning.taught import Taught, held_apart, tell_small
from fglfast.generator.parts import name_of
from fglfast.images.attributes import describe
from fglfast.images.labelled import LabelledImages

UNCONDITIONAL_SHARE = 0.10
CLASS_LEVEL_SHARE = 0.45  # of the rest, the instance-level prompt
GRID = 16  # images a row of the VAE's grid
JUDGED = 64  # held-out images at once
MOST_SHOWN = 20  # prompts of the grid
KL_WEIGHT = 2e-4


class PretrainSettings(Settings):
    """Sizes and budgets of one pretraining.

    Attributes:
        model: sizes of the networks; how long a prompt may be follows from the captions, if they are longer.
        vae: the first stage.
        flow: the second.
        coupling: which noise goes with which image.
        classes: whether prompts say the class; without, they are the captions alone.
        seed: of weights and draws.
        device: where it computes; in bfloat16 where that is native.
    """

    model: MiniSettings = MiniSettings()
    vae: FitSettings = FitSettings(steps=12_000, batch_size=32, learning_rate=1e-3, seed=1)
    flow: FitSettings = FitSettings(steps=10_000, batch_size=64, learning_rate=1.5e-3, seed=2)
    coupling: CouplingName = "independent"
    classes: bool = True
    seed: int = 0
    device: str = "cpu"

    @classmethod
    def budget(
        cls, model: MiniSettings, vae_steps: int, flow_steps: int, coupling: CouplingName, seed: int, device: str
    ) -> "PretrainSettings":
        """The usual rates and batches with other sizes and numbers of steps."""
        default = cls()
        return cls(
            model=model,
            vae=default.vae.model_copy(update={"steps": vae_steps, "seed": default.vae.seed + 2 * seed}),
            flow=default.flow.model_copy(update={"steps": flow_steps, "seed": default.flow.seed + 2 * seed}),
            coupling=coupling,
            seed=seed,
            device=device,
        )


def pretrain(
    dataset: LabelledImages, out: Path, settings: PretrainSettings, captions: Sequence[str] | None = None
) -> Path:
    """Train on labelled public images and write `out/model` in the diffusers layout.

    Args:
        dataset: the images, fitted to the model's size; its class names are what prompts say.
        out: folder for checkpoints, sample grids and the finished model.
        settings: sizes and budgets.
        captions: what is in each image, for instance-level prompts; by default shade, texture and
            proportions, measured.

    Returns:
        The folder that `StableDiffusionPipeline.from_pretrained` loads.

    Raises:
        BadInputError: `out` holds checkpoints of other images or another model.
        UsageError: the device is not there, or there are neither classes nor captions to learn.
    """
    if not settings.classes and captions is None:
        raise UsageError("without classes there is nothing to learn but captions", "give --captions, a file or a model")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no CUDA device is visible to torch", "use --device cpu, or install the CUDA build of torch")
    state, grids = out / "state", out / "grids"
    state.mkdir(parents=True, exist_ok=True)
    grids.mkdir(exist_ok=True)
    size = settings.model.image_size
    tell_small(dataset, size)
    images_NHWC = np.stack([dataset.pixels(index, size) for index in range(len(dataset))])
    texts = prompts_of(dataset, captions or [describe(image) for image in images_NHWC], settings.classes)
    tokenizer, model = fitting(texts, settings.model)
    settings = settings.model_copy(update={"model": model})
    _check_same_run(state / "run.json", images_NHWC, texts, settings)
    torch.manual_seed(settings.seed)
    pixels_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
    learned, held_out = held_apart(len(dataset), settings.seed)
    vae = _train_vae(pixels_NCHW[learned], settings, state, grids)
    moments_N2CHW = _encode(vae, pixels_NCHW, state / "latents.safetensors")
    tokens_NPL = torch.stack([_tokens(tokenizer, list(level)) for level in zip(*texts, strict=True)], dim=1)
    taught = Taught(moments_N2CHW, tokens_NPL, learned, held_out)
    wording, alone = (CLASSES, ()) if settings.classes else (CAPTIONS, [texts[row][1] for row in held_out.tolist()])
    shown = alone or dataset.class_names
    networks = _train_flow(taught, shown, tokenizer, vae, settings, state, grids)
    with finished_folder(out / "model") as unfinished:
        save_pipeline(unfinished, vae, *networks, tokenizer)
        write_atomic(unfinished / "prompts.json", json.dumps(wording, indent=2) + "\n")
        card = model_card(name_of(out / "model"), dataset, size, captions is None, alone, state)
        write_atomic(unfinished / "README.md", card)
    return out / "model"


def _narrow(device: str) -> torch.autocast:
    """bfloat16 where the device computes in it."""
    native = torch.cuda.get_device_capability() >= (8, 0) if device == "cuda" else native_bfloat16()
    return torch.autocast(device, torch.bfloat16, enabled=native)


def _check_same_run(
    path: Path, images_NHWC: NDArray[np.uint8], texts: Sequence[tuple[str, str]], settings: PretrainSettings
) -> None:
    """Refuse to go on from checkpoints of other images, captions, model or coupling; more steps are welcome."""
    digest = hashlib.sha256(np.ascontiguousarray(images_NHWC).data)
    digest.update(json.dumps(texts).encode())
    model = settings.model.model_dump(mode="json")
    run = {"images": digest.hexdigest(), "model": model, "coupling": settings.coupling, "seed": settings.seed}
    claim(path, run, "checkpoints of other images or captions, another model, coupling or seed")


def _train_vae(pixels_NCHW: Tensor, settings: PretrainSettings, state: Path, grids: Path) -> AutoencoderKL:
    vae = build_vae(settings.model).to(settings.device)
    fit = Fit("vae", nn.ModuleDict({"vae": vae}), settings.vae, state)

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels_NCHW), (batch_size,), generator=generator)
        images_BCHW = _to_signed(pixels_NCHW[rows], settings.device)
        with _narrow(settings.device):
            posterior = vae.encode(images_BCHW).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(settings.device)
            decoded_BCHW = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded_BCHW.float() - images_BCHW
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
        loss: Tensor = error.abs().mean() + error.square().mean() + KL_WEIGHT * divergence
        return loss

    @torch.no_grad()
    def grid(step: int) -> None:
        columns = min(GRID, len(pixels_NCHW))
        whole_rows = min(2, len(pixels_NCHW) // columns)
        images_BCHW = _to_signed(pixels_NCHW[: whole_rows * columns], settings.device)
        decoded_BCHW = vae.decode(vae.encode(images_BCHW).latent_dist.mean).sample
        note(f"vae: step {step}, reconstruction error {(decoded_BCHW - images_BCHW).square().mean():.5f}")
        save_grid(torch.cat([images_BCHW, decoded_BCHW]), columns, grids / f"vae-{step:06d}.png")

    fit.run(loss_function, grid)
    return vae.requires_grad_(False)


@torch.no_grad()
def _encode(vae: AutoencoderKL, pixels_NCHW: Tensor, cache: Path) -> Tensor:
    """Posterior mean and deviation of every image [N,2,C,H,W]; sets the VAE's scaling factor."""
    if not cache.exists():
        parts, device = [], next(vae.parameters()).device
        with Progress("latents", total=len(pixels_NCHW)) as progress:
            for batch_BCHW in pixels_NCHW.split(256):
                posterior = vae.encode(_to_signed(batch_BCHW, str(device))).latent_dist
                parts.append(torch.stack([posterior.mean, posterior.std], dim=1).cpu())
                progress.advance(len(batch_BCHW))
        with placing(cache) as unfinished:
            save_file({"moments": torch.cat(parts).contiguous()}, unfinished)
    moments_N2CHW = load_file(cache)["moments"]
    vae.register_to_config(scaling_factor=float(1.0 / moments_N2CHW[:, 0].std()))
    return moments_N2CHW


def _train_flow(
    taught: Taught,
    shown: Sequence[str],
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    settings: PretrainSettings,
    state: Path,
    grids: Path,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    device, scale = settings.device, float(vae.config.scaling_factor)
    unet = build_unet(settings.model).to(device)
    text_encoder = build_text_encoder(settings.model, tokenizer)
    text_encoder.to(device)  # type: ignore[arg-type]  # transformers hides nn.Module.to behind a bound wrapper
    fit = Fit("flow", nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}), settings.flow, state)
    empty_L = _tokens(tokenizer, [""])[0]

    def velocity(x_BCHW: Tensor, t_B: Tensor, tokens_BL: Tensor) -> Tensor:
        with _narrow(device):
            text_BLD = text_encoder(tokens_BL.to(device))[0]
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            velocity_BCHW: Tensor = unet(x_BCHW, TIMESTEPS * t_B, text_BLD, return_dict=False)[0]
        return velocity_BCHW.float()

    def lesson_loss(rows: Tensor, coupling: Coupling, generator: torch.Generator) -> Tensor:
        mean_BCHW, std_BCHW = taught.moments_N2CHW[rows].unbind(dim=1)
        x0_BCHW = scale * (mean_BCHW + std_BCHW * torch.randn(mean_BCHW.shape, generator=generator)).to(device)
        share_B = torch.rand(len(rows), generator=generator)
        level_B = (share_B > UNCONDITIONAL_SHARE + CLASS_LEVEL_SHARE).long()
        tokens_BL = taught.tokens_NPL[rows, level_B]
        tokens_BL[share_B < UNCONDITIONAL_SHARE] = empty_L
        _, condition_B = tokens_BL.unique(dim=0, return_inverse=True)
        given = lesson(x0_BCHW, condition_B, coupling, generator)
        fit.noted["effective"] = round(given.effective, 4)
        return given.loss(velocity(given.x, given.t, tokens_BL))

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows = taught.learned[torch.randint(len(taught.learned), (batch_size,), generator=generator)]
        return lesson_loss(rows, COUPLINGS[settings.coupling], generator)

    @torch.no_grad()
    def held_out() -> float:
        """The same draws each time; a batch counts as its rows do."""
        generator, parts = torch.Generator().manual_seed(settings.seed), taught.held_out.split(JUDGED)
        effective = fit.noted.get("effective", 1.0)
        losses = [len(rows) * float(lesson_loss(rows, COUPLINGS["independent"], generator)) for rows in parts]
        fit.noted["effective"] = effective  # of what is learned from
        return sum(losses) / len(taught.held_out)

    @torch.no_grad()
    def grid(step: int, guidance: float = 2.0, columns: int = 8) -> None:
        tokens_BL = _tokens(tokenizer, [prompt for prompt in shown[:MOST_SHOWN] for _ in range(columns)])
        noise_BCHW = torch.randn(
            (len(tokens_BL), *taught.moments_N2CHW.shape[2:]), generator=torch.Generator().manual_seed(step)
        ).to(device)
        free_BL = empty_L.expand(len(tokens_BL), -1)
        conditional, free = (partial(velocity, tokens_BL=each_BL) for each_BL in (tokens_BL, free_BL))
        latents_BCHW = euler(guided(conditional, free, guidance), noise_BCHW, uniform(20))
        save_grid(vae.decode(latents_BCHW / scale).sample, columns, grids / f"flow-{step:06d}.png")

    fit.run(loss_function, grid, held_out=held_out)
    return unet, text_encoder


def save_grid(images_BCHW: Tensor, columns: int, path: Path) -> None:
    """Write images in [-1,1] as one PNG, `columns` a row."""
    pixels = ((images_BCHW.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(pixels[i : i + columns]), axis=1) for i in range(0, len(pixels), columns)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(  # type: ignore[no-any-return]
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids


def _to_signed(pixels_BCHW: Tensor, device: str) -> Tensor:
    images_BCHW = pixels_BCHW.to(device, torch.float32) / 127.5 - 1.0
    return images_BCHW.contiguous(memory_format=torch.channels_last)
