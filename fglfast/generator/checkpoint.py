"""A Stable Diffusion checkpoint in one `.safetensors` file, made into a diffusers directory once, without a network.

The file holds the weights of all networks and nothing else. Their configs are those of its family, which its tensors
tell; the words of its tokenizer, CLIP's, have to be had: from `tokenizer/` beside the file, or from the hub. A file
`scheduler/scheduler_config.json` beside it says how it was trained, where that is not as its family was.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from transformers import CLIPTokenizer

from fglfast.base.console import no_loading_bars
from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.generator.configs import read_config, read_header
from fglfast.generator.families import NOISE, TOKENS, Family, padded_with, write_configs
from fglfast.generator.kinds import STABLE_DIFFUSION, XL, check_kind
from fglfast.generator.made import made_once
from fglfast.generator.tokens import BOS, EOS

WORDS = "openai/clip-vit-large-patch14"  # whose tokenizer all of Stable Diffusion's are
WORD_FILES = ("vocab.json", "merges.txt")
SCHEDULER = "scheduler/scheduler_config.json"
UNET, VAE = "model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.decoder.conv_in.weight"
TEXTS = ("cond_stage_model.", "conditioner.embedders.")
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}
HINT = "use a whole checkpoint of Stable Diffusion 1.x, 2.x or XL, or a model folder in diffusers' layout"


@dataclass(frozen=True)
class Known:
    """What a kind of checkpoint is, beside its weights."""

    family: Family
    pipeline: str
    side: int
    padding: str = EOS
    prediction: str = "epsilon"


# By diffusers' name of the kind. The tensors of Stable Diffusion 2's two sizes are alike: the larger is taken.
KINDS = {
    "v1": Known("sd15", STABLE_DIFFUSION, 512),
    "v2": Known("sd21-base", STABLE_DIFFUSION, 768, "!", "v_prediction"),
    "xl_base": Known("sdxl", XL, 1024),
}
BASE_SIDE = 512  # of Stable Diffusion 2, where it predicts noise


def as_folder(path: Path) -> Path:
    """The diffusers directory of a checkpoint, made if it is not there; it is found by all that it depends on.

    Raises:
        BadInputError: it is no checkpoint of a kind that can be used, lacks a network, or its tokenizer cannot be had.
    """
    known, words, scheduler = _kind(path), _words(path.parent), path.parent / SCHEDULER
    of = [path, *words, *([scheduler] if scheduler.is_file() else [])]
    what = f"a model folder of checkpoint {path.name}, of {known.family}'s kind"
    return made_once(path.stem, what, of, partial(_convert, path, known, words, scheduler))


def _kind(path: Path) -> Known:
    """What a checkpoint is, told by the names and shapes of its tensors."""
    header = read_header(path)
    with loading(path, HINT):
        outline = {
            name: torch.empty(facts["shape"], device="meta") for name, facts in header.items() if name != "__metadata__"
        }
        kind = infer_diffusers_model_type(outline)
    if kind not in KINDS:
        raise BadInputError(f"{path}: a checkpoint of diffusers' kind {kind!r}, which cannot be used", HINT)
    text = any(name.startswith(TEXTS) for name in outline)
    for there, what in ((UNET in outline, "UNet"), (VAE in outline, "VAE"), (text, "text encoder")):
        if not there:
            raise BadInputError(f"{path}: no whole checkpoint of Stable Diffusion: it holds no {what}", HINT)
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


def _convert(path: Path, known: Known, words: tuple[Path, ...], scheduler: Path, folder: Path) -> None:
    configs = folder / "configs"
    configs.mkdir()
    with loading(path, HINT), no_loading_bars():
        solver = _solver(scheduler, known)
        side = known.side if solver.config.prediction_type == known.prediction else BASE_SIDE
        write_configs(known.family, configs, padded_with(_tokenizer(words), known.padding), solver, side)
        kind: Any = getattr(diffusers, known.pipeline)
        pipeline = kind.from_single_file(str(path), config=str(configs), local_files_only=True)
    header = read_header(path)
    for network, tensor in ((pipeline.unet, UNET), (pipeline.vae, VAE)):
        network.to(HALVES.get(header[tensor]["dtype"], torch.float32))  # as they were saved
    pipeline.save_pretrained(folder)
    shutil.rmtree(configs)
    check_kind(folder)


def _tokenizer(words: tuple[Path, ...]) -> CLIPTokenizer:
    vocabulary, merges = map(str, words)
    ends = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **ends, model_max_length=TOKENS)


def _solver(path: Path, known: Known) -> DPMSolverMultistepScheduler:
    """A solver on the noise that the model was trained on: what the file says, or else as its family was."""
    usual = {**NOISE, "steps_offset": 1, "prediction_type": known.prediction}
    return DPMSolverMultistepScheduler.from_config(read_config(path) if path.is_file() else usual)
