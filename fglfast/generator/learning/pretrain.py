"""Train the small text-to-image model: a VAE, text encoder and UNet by latent flow matching, a label flow if asked.

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
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from fglfast.base.config import Seed, Settings
from fglfast.base.errors import UsageError
from fglfast.base.files import claim, finished_folder, write_atomic
from fglfast.generator.architecture import MiniSettings, build_text_encoder, build_unet, save_pipeline
from fglfast.generator.learning.autoencoder import encode_all, narrow, save_grid, train_vae
from fglfast.generator.learning.card import model_card
from fglfast.generator.learning.couplings import COUPLINGS, Coupling, CouplingName, independent
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.flow import TIMESTEPS, lesson
from fglfast.generator.learning.label_flow import FIT as LABEL_FIT
from fglfast.generator.learning.label_flow import LabelFlow, LabelledLatents, save_label_flow, train_label_flow
from fglfast.generator.learning.solvers import euler, guided, uniform
from fglfast.generator.learning.taught import CAPTIONS, CLASSES, Taught, fitting, held_apart, prompts_of, tell_small
from fglfast.generator.load import own_device
from fglfast.generator.parts import name_of
from fglfast.images.attributes import describe
from fglfast.images.labelled import LabelledImages

UNCONDITIONAL_SHARE = 0.10
CLASS_LEVEL_SHARE = 0.45  # of the rest, the instance-level prompt
JUDGED = 64  # held-out images at once
MOST_SHOWN = 20  # prompts of the grid
RUN = "state/run.json"  # whose the folder is


class PretrainSettings(Settings):
    """Sizes and budgets of one pretraining.

    Attributes:
        model: sizes of the networks; how long a prompt may be follows from the captions, if they are longer.
        vae: the first stage.
        flow: the second.
        labels: the third, a flow of labels beside the second's of images; None is none.
        coupling: which noise goes with which image.
        classes: whether prompts say the class; without, they are the captions alone.
        seed: of weights and draws.
        device: where it computes, in bfloat16 where that is native; auto is a GPU where there is one.
    """

    model: MiniSettings = MiniSettings()
    vae: FitSettings = FitSettings(steps=12_000, batch_size=32, learning_rate=1e-3, seed=1)
    flow: FitSettings = FitSettings(steps=10_000, batch_size=64, learning_rate=1.5e-3, seed=2)
    labels: FitSettings | None = None
    coupling: CouplingName = "independent"
    classes: bool = True
    seed: Seed = 0
    device: str = "auto"

    @classmethod
    def budget(
        cls,
        model: MiniSettings,
        vae_steps: int,
        flow_steps: int,
        label_steps: int,
        coupling: CouplingName,
        seed: int,
        device: str,
    ) -> "PretrainSettings":
        """The usual rates and batches with other sizes and numbers of steps; without label steps, no label flow."""
        default = cls()

        def lasting(usual: FitSettings, steps: int) -> FitSettings:
            return usual.model_copy(update={"steps": steps, "seed": usual.seed + 2 * seed})

        return cls(
            model=model,
            vae=lasting(default.vae, vae_steps),
            flow=lasting(default.flow, flow_steps),
            labels=lasting(LABEL_FIT, label_steps) if label_steps else None,
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
    if settings.device == "auto":
        settings = settings.model_copy(update={"device": own_device()})
    coupling = COUPLINGS[settings.coupling]()  # one of them needs a package: said before anything is trained
    state, grids = (out / RUN).parent, out / "grids"
    size = settings.model.image_size
    tell_small(dataset, size)
    images_NHWC = np.stack([dataset.pixels(index, size) for index in range(len(dataset))])
    texts = prompts_of(dataset, captions or [describe(image) for image in images_NHWC], settings.classes)
    tokenizer, model = fitting(texts, settings.model)
    settings = settings.model_copy(update={"model": model})
    _check_same_run(out / RUN, images_NHWC, texts, settings)
    grids.mkdir(exist_ok=True)
    torch.manual_seed(settings.seed)
    pixels_NCHW = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
    learned, held_out = held_apart(len(dataset), settings.seed)
    vae = train_vae(pixels_NCHW[learned], settings.model, settings.vae, settings.device, state, grids)
    moments_N2CHW = encode_all(vae, pixels_NCHW, state)
    tokens_NPL = torch.stack([_tokens(tokenizer, list(level)) for level in zip(*texts, strict=True)], dim=1)
    taught = Taught(moments_N2CHW, tokens_NPL, learned, held_out)
    wording, alone = (CLASSES, ()) if settings.classes else (CAPTIONS, [texts[row][1] for row in held_out.tolist()])
    shown = alone or dataset.class_names
    networks = _train_flow(taught, shown, tokenizer, vae, settings, coupling, state, grids)
    labels = _train_labels(taught, dataset, vae, settings, state)
    with finished_folder(out / "model") as unfinished:
        save_pipeline(unfinished, vae, *networks, tokenizer)
        if labels:
            save_label_flow(labels, dataset.class_names, moments_N2CHW.shape[2:], unfinished)
        write_atomic(unfinished / "prompts.json", json.dumps(wording, indent=2) + "\n")
        card = model_card(name_of(out / "model"), dataset, size, captions is None, alone, state, labels is not None)
        write_atomic(unfinished / "README.md", card)
    return out / "model"


def _check_same_run(
    path: Path, images_NHWC: NDArray[np.uint8], texts: Sequence[tuple[str, str]], settings: PretrainSettings
) -> None:
    """Refuse to go on from checkpoints of other images, captions, model or coupling; more steps are welcome."""
    digest = hashlib.sha256(np.ascontiguousarray(images_NHWC).data)
    digest.update(json.dumps(texts).encode())
    model = settings.model.model_dump(mode="json")
    run = {"images": digest.hexdigest(), "model": model, "coupling": settings.coupling, "seed": settings.seed}
    claim(path, run, "checkpoints of other images or captions, another model, coupling or seed")


def _train_flow(
    taught: Taught,
    shown: Sequence[str],
    tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    settings: PretrainSettings,
    coupling: Coupling,
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
        with narrow(device):
            text_BLD = text_encoder(tokens_BL.to(device))[0]
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            velocity_BCHW: Tensor = unet(x_BCHW, TIMESTEPS * t_B, text_BLD, return_dict=False)[0]
        return velocity_BCHW.float()

    def lesson_loss(rows: Tensor, coupled: Coupling, generator: torch.Generator) -> Tensor:
        mean_BCHW, std_BCHW = taught.moments_N2CHW[rows].unbind(dim=1)
        x0_BCHW = scale * (mean_BCHW + std_BCHW * torch.randn(mean_BCHW.shape, generator=generator)).to(device)
        share_B = torch.rand(len(rows), generator=generator)
        level_B = (share_B > UNCONDITIONAL_SHARE + CLASS_LEVEL_SHARE).long()
        tokens_BL = taught.tokens_NPL[rows, level_B]
        tokens_BL[share_B < UNCONDITIONAL_SHARE] = empty_L
        _, condition_B = tokens_BL.unique(dim=0, return_inverse=True)
        given = lesson(x0_BCHW, condition_B, coupled, generator)
        fit.noted["effective"] = round(given.effective, 4)
        return given.loss(velocity(given.x, given.t, tokens_BL))

    def loss_function(batch_size: int, generator: torch.Generator) -> Tensor:
        rows = taught.learned[torch.randint(len(taught.learned), (batch_size,), generator=generator)]
        return lesson_loss(rows, coupling, generator)

    @torch.no_grad()
    def held_out() -> float:
        """The same draws each time; a batch counts as its rows do."""
        generator, parts = torch.Generator().manual_seed(settings.seed), taught.held_out.split(JUDGED)
        effective = fit.noted.get("effective", 1.0)
        losses = [len(rows) * float(lesson_loss(rows, independent, generator)) for rows in parts]
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


def _train_labels(
    taught: Taught, dataset: LabelledImages, vae: AutoencoderKL, settings: PretrainSettings, state: Path
) -> LabelFlow | None:
    if settings.labels is None:
        return None
    labels_N = torch.from_numpy(dataset.labels)[taught.learned]
    scale, moments = float(vae.config.scaling_factor), taught.moments_N2CHW[taught.learned]
    given = LabelledLatents(moments, labels_N, scale, dataset.class_names)
    return train_label_flow(given, settings.labels, state, settings.device)


def _tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(  # type: ignore[no-any-return]
        texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
