"""The text side of a diffusers directory: find the folder, run its text encoder. Knows no image."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from fglfast.config import Settings, first_problem
from fglfast.console import no_loading_bars, note
from fglfast.errors import BadInputError

BUNDLED = "mini"
ENCODE_BATCH = 64
WANTED = ("*.json", "*.txt", "*.safetensors", "*.model")


class Prompts(Settings):
    """Prompt templates; the defaults are the paper's, a model folder may carry its own in `prompts.json`."""

    class_level: str = "{label}, real world images, high resolution"
    instance_level: str = "{label}, {caption}, real world images, high resolution."
    negative: str = "low quality, low resolution"


def resolve_model(name: str, revision: str | None = None, mirror: str | None = None) -> Path:
    """The folder of a model: bundled, a local diffusers directory, or a hub id (safetensors only).

    Raises:
        BadInputError: nothing of that name, or the folder is not a diffusers directory.
    """
    if name == BUNDLED:
        return _complete(Path(str(files("fglfast") / "assets" / BUNDLED)))
    if Path(name).is_dir():
        return _complete(Path(name))
    tried = []
    for repository in filter(None, (name, mirror)):
        try:
            return _complete(_download(repository, revision))
        except (OSError, ValueError) as error:  # the hub's errors are of these kinds
            tried.append(f"{repository} ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
    raise BadInputError(
        f"no model named {name!r}: tried {'; '.join(tried)}", "give mini, a diffusers directory, or a reachable hub id"
    )


def load_prompts(folder: Path) -> Prompts:
    """The prompt templates of a model folder."""
    path = folder / "prompts.json"
    if not path.exists():
        return Prompts()
    try:
        return Prompts.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_problem(error)}", "mend the key it names") from error


def text_fingerprint(folder: Path) -> str:
    """sha256 over the text encoder's weights and config and the tokenizer's files, names included."""
    digest = hashlib.sha256()
    for part in ("text_encoder", "tokenizer"):
        for path in sorted((folder / part).glob("*")):
            if path.suffix in {".json", ".txt", ".safetensors"}:
                with path.open("rb") as stream:
                    digest.update(f"{part}/{path.name}\0".encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def native_image_size(folder: Path) -> int:
    """Side in pixels of the images a model was trained on."""
    unet, vae = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "vae"))
    factor: int = 2 ** (len(vae["block_out_channels"]) - 1)
    return int(unet["sample_size"]) * factor


@dataclass(frozen=True)
class TextEncoder:
    """Tokenizer and CLIP text encoder of one folder, float32 on the CPU.

    Attributes:
        tokenizer: pads and truncates to the model's length.
        model: the text encoder in evaluation mode.
        fingerprint: see `text_fingerprint`.
    """

    tokenizer: Any
    model: Any
    fingerprint: str

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """Open the text side of a model folder; safetensors only."""
        from transformers import CLIPTextModel, CLIPTokenizer

        with no_loading_bars():
            model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, use_safetensors=True)
        return cls(CLIPTokenizer.from_pretrained(folder / "tokenizer"), model.eval(), text_fingerprint(folder))

    def tokenize(self, prompts: Sequence[str]) -> NDArray[np.int32]:
        """Token ids [N,L] of prompts, padded; those cut short are counted and one is named."""
        length = int(self.tokenizer.model_max_length)
        long = [
            text
            for text, ids in zip(prompts, self.tokenizer(list(prompts)).input_ids, strict=True)
            if len(ids) > length
        ]
        if long:
            note(f"{len(long)} of {len(prompts)} prompts are over {length} tokens and cut: {long[0][:80]!r}")
        padded = self.tokenizer(list(prompts), padding="max_length", truncation=True, max_length=length)
        return np.array(padded.input_ids, dtype=np.int32)

    @torch.inference_mode()
    def encode(self, token_ids_NL: NDArray[np.int32]) -> NDArray[np.float32]:
        """Text embeddings [N,L,D]: the last hidden state."""
        parts = torch.from_numpy(token_ids_NL).long().split(ENCODE_BATCH)
        return torch.cat([self.model(part)[0] for part in parts]).numpy()


def _complete(folder: Path) -> Path:
    if not (folder / "model_index.json").exists():
        raise BadInputError(
            f"{folder}: not a diffusers directory (no model_index.json)", "give a complete model folder"
        )
    for part in ("unet", "vae", "text_encoder"):
        if not list((folder / part).glob("*.safetensors")):
            raise BadInputError(
                f"{folder / part}: no safetensors weights", "only safetensors are read; convert the model"
            )
    return folder


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(WANTED), local_files_only=offline))
