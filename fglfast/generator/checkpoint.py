"""A Stable Diffusion checkpoint in one `.safetensors` file, made into a diffusers directory once, without a network.

The file holds the weights of all networks and nothing else. Their configs are those of its family, which its tensors
tell; the words of its tokenizer, CLIP's, have to be had: from `tokenizer/` beside the file, or from the hub. A file
`scheduler/scheduler_config.json` beside it says how it was trained, where that is not as its family was.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler, SchedulerMixin
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
    infer_diffusers_model_type,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.base.wording import some
from fglfast.generator.configs import read_config, read_header
from fglfast.generator.families import NOISE, TOKENS, Family, padded_with, write_configs
from fglfast.generator.kinds import check_kind
from fglfast.generator.made import made_once
from fglfast.generator.scheduler import CONFIG, own_clock
from fglfast.generator.tokens import EOS, SPECIAL

WORDS = "openai/clip-vit-large-patch14"  # whose tokenizer all of Stable Diffusion's are
WORD_FILES = ("vocab.json", "merges.txt")
DIFFUSION = "model.diffusion_model."
UNET, VAE = f"{DIFFUSION}input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"
TEXTS = ("cond_stage_model.", "conditioner.embedders.")
OPEN_CLIP = {"text_encoder": "cond_stage_model.model.", "text_encoder_2": "conditioner.embedders.1.model."}
USUAL = (torch.float32, torch.float16, torch.bfloat16)
Tensors = dict[str, torch.Tensor]
HINT = "use a whole checkpoint of Stable Diffusion 1.x, 2.x or XL, or a model folder in diffusers' layout"


@dataclass(frozen=True)
class CheckpointKind:
    """What a kind of checkpoint is, beside its weights; `noise_side` is the side of its images if it predicts noise."""

    family: Family
    side: int
    padding: str = EOS
    prediction: str = "epsilon"
    noise_side: int | None = None


# By diffusers' name of the kind. The tensors of Stable Diffusion 2's two sizes are alike: the larger is taken.
KINDS = {
    "v1": CheckpointKind("sd15", 512),
    "v2": CheckpointKind("sd21-base", 768, "!", "v_prediction", noise_side=512),
    "xl_base": CheckpointKind("sdxl", 1024),
}
# Empty tensors by which fine-tuned checkpoints of XL say what they predict, and at which noise they begin.
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
OTHER_NOISE = "edm_vpred.sigma_max"
SCALED = (".scale_weight", ".weight_scale", "scaled_fp8", ".comfy_quant")  # ends of names where weights have a scale


def as_folder(path: Path) -> Path:
    """The diffusers directory of a checkpoint, made if it is not there; it is found by all that it depends on.

    Raises:
        BadInputError: it is no checkpoint of a kind that can be used, lacks a network, or its tokenizer cannot be had.
    """
    known, words, scheduler = _kind(path), _words(path.parent), path.parent / CONFIG
    of = [path, *words, *([scheduler] if scheduler.is_file() else [])]
    what = f"the model folder of checkpoint {path.name}, of {known.family}'s kind"
    return made_once(path.stem, what, of, partial(_convert, path, known, words, scheduler))


def _kind(path: Path) -> CheckpointKind:
    """What a checkpoint is, told by the names and shapes of its tensors."""
    header = read_header(path)
    with loading(path, HINT):
        outline = {
            name: torch.empty(facts["shape"], device="meta") for name, facts in header.items() if name != "__metadata__"
        }
        kind = infer_diffusers_model_type(outline)
    if kind not in KINDS:
        raise BadInputError(f"{path}: a checkpoint of diffusers' kind {kind!r}, which cannot be used", HINT)
    if OTHER_NOISE in outline:
        raise BadInputError(f"{path}: trained on other noise than Stable Diffusion's ({OTHER_NOISE})", HINT)
    if scaled := next((name for name in outline if name.endswith(SCALED)), None):
        raise BadInputError(f"{path}: its weights are quantized, with a scale of their own ({scaled})", HINT)
    text = any(name.startswith(TEXTS) for name in outline)
    for there, what in ((UNET in outline, "UNet"), (VAE in outline, "VAE"), (text, "text encoder")):
        if not there:
            raise BadInputError(f"{path}: not a complete checkpoint of Stable Diffusion: it holds no {what}", HINT)
    return KINDS[kind]


def _words(beside: Path) -> tuple[Path, ...]:
    """The vocabulary and merges of CLIP's tokenizer: those beside a checkpoint, or else the hub's."""
    own = tuple(beside / "tokenizer" / name for name in WORD_FILES)
    if all(path.is_file() for path in own):
        return own
    from huggingface_hub import hf_hub_download

    try:
        return tuple(Path(hf_hub_download(WORDS, name)) for name in WORD_FILES)
    except (OSError, ValueError) as error:  # the hub's errors are of these kinds
        raise BadInputError(
            f"{beside / 'tokenizer'}: no {' and '.join(WORD_FILES)}, and {WORDS} cannot be reached",
            f"a checkpoint holds no tokenizer: put these two files of {WORDS} there",
        ) from error


def _convert(path: Path, known: CheckpointKind, words: tuple[Path, ...], scheduler: Path, folder: Path) -> None:
    with loading(path, HINT):
        tensors = load_file(path)
        solver = _solver(scheduler, tensors, known)
        side = known.side if solver.config.prediction_type != "epsilon" else known.noise_side or known.side
        networks = write_configs(known.family, folder, padded_with(_tokenizer(words), known.padding), solver, side)
        for name, network in networks.items():
            what = f"{path}: its {name}"
            try:
                found = _weights(name, network, tensors)
            except KeyError as error:
                raise BadInputError(f"{what} is incomplete ({error.args[0]} missing)", HINT) from error
            if name == "unet":
                _refuse_more(found, network, tensors, what)
            file = "diffusion_pytorch_model.safetensors" if name in ("unet", "vae") else "model.safetensors"
            save_file(_whole(found, network, what), folder / name / file, {"format": "pt"})
    check_kind(folder)


def _weights(name: str, network: Any, tensors: Tensors) -> Tensors:
    """A network's tensors by the names that they have in diffusers or transformers; others may be among them."""
    named: Tensors
    if name == "unet":
        named = convert_ldm_unet_checkpoint(tensors, network.config)
    elif name == "vae":
        named = convert_ldm_vae_checkpoint(tensors, network.config)
    elif any(key.startswith(OPEN_CLIP[name]) for key in tensors):
        named = convert_open_clip_checkpoint(network, tensors, OPEN_CLIP[name])
    else:
        named = convert_ldm_clip_checkpoint(tensors)
    if hasattr(network, "text_model"):
        return named
    return {key.removeprefix("text_model."): tensor for key, tensor in named.items()}


def _refuse_more(found: Tensors, network: nn.Module, tensors: Tensors, what: str) -> None:
    """Refuse a UNet of which weights would be left over: one that is told more than a prompt.

    Raises:
        BadInputError: naming them.
    """
    used = {id(found[name]) for name in network.state_dict().keys() & found.keys()}
    if more := sorted(
        name for name, tensor in tensors.items() if name.startswith(DIFFUSION) and id(tensor) not in used
    ):
        raise BadInputError(f"{what} has other weights than its family's ({some(more)})", HINT)


def _whole(found: Tensors, network: nn.Module, what: str) -> Tensors:
    """The weights of a network and no others, in the precision they were saved in, where that is a usual one.

    Diffusers' own loader leaves what a checkpoint lacks at random.

    Raises:
        BadInputError: one is missing, or has another shape.
    """
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if missing := shapes.keys() - found.keys():
        raise BadInputError(f"{what} is incomplete ({some(sorted(missing))} missing)", HINT)
    for name, shape in shapes.items():
        if found[name].shape != shape:
            there, wanted = tuple(found[name].shape), tuple(shape)
            raise BadInputError(f"{what}: {name} has the shape {there}, and its family's has {wanted}", HINT)
    return {
        name: (found[name] if found[name].dtype in USUAL else found[name].to(torch.float32)).contiguous()
        for name in shapes
    }


def _tokenizer(words: tuple[Path, ...]) -> CLIPTokenizer:
    vocabulary, merges = map(str, words)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **SPECIAL, model_max_length=TOKENS)


def _solver(scheduler: Path, names: Collection[str], known: CheckpointKind) -> SchedulerMixin:
    """A solver on the noise that the model was trained on: what the file says, or marks among the tensors, or usual."""
    if scheduler.is_file():
        config = read_config(scheduler)
        kind = getattr(diffusers, config["_class_name"]) if own_clock(config) else DPMSolverMultistepScheduler
        return kind.from_config(config)
    usual = {**NOISE, "steps_offset": 1, "prediction_type": known.prediction}
    if VELOCITY in names:
        usual |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": ZERO_SNR in names}
    return DPMSolverMultistepScheduler.from_config(usual)
