"""A diffusers directory as files: find it, its prompts, its text side's fingerprint. Loads no network."""

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from fglfast.config import Settings, first_problem
from fglfast.errors import BadInputError

BUNDLED = "mini"
PARTS = ("text_encoder", "text_encoder_2", "unet", "vae", "scheduler", "tokenizer", "tokenizer_2")
WANTED = ("model_index.json", "prompts.json", *(f"{part}/*.{end}" for part in PARTS for end in ("json", "txt")))
WEIGHTS = tuple(f"{part}/*.safetensors" for part in PARTS)
OTHER_WEIGHTS = ("*.fp16*", "*.bf16*", "*non_ema*", "*openvino*")  # further copies of the same weights


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
    """sha256 over the text encoders' weights and configs and the tokenizers' files, names included."""
    digest = hashlib.sha256()
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
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
    folder = snapshot_download(
        repository,
        revision=revision,
        allow_patterns=[*WANTED, *WEIGHTS],
        ignore_patterns=list(OTHER_WEIGHTS),
        local_files_only=offline,
    )
    return Path(folder)
