"""A model of the hub, fetched step by step and no further than is asked. Loads no network.

First its index, by which most of what cannot be drawn with is refused; then configs, tokenizers and prompts; then the
weights of the networks that are asked for, one copy of them.
"""

import os
from functools import partial
from pathlib import Path

from fglfast.generator.blocks import load_blocks
from fglfast.generator.kinds import INDEX, Need, check_index, check_needed, networks
from fglfast.generator.parts import BLOCK, BLOCKS, PARTS, part
from fglfast.generator.weights import COPIES, VARIANTS, weight_files

_FOLDERS = (*PARTS, f"{BLOCK}/unet")
_CONFIGS = tuple(f"{name}/*.{end}" for name in _FOLDERS for end in ("json", "txt"))
SETTINGS = ("prompts.json", BLOCKS, f"{BLOCK}/{INDEX}", *_CONFIGS)


def fetch_model(repository: str, revision: str | None, need: Need) -> Path:
    """The folder of a hub id's files at a branch, tag or commit, those of earlier calls among them.

    Raises:
        BadInputError: the model is of a kind that cannot be used; none of its weights was fetched.
        OSError, ValueError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    fetch = partial(snapshot_download, repository, revision=revision, local_files_only=offline)
    folder = Path(fetch(allow_patterns=[INDEX]))
    if folder.parent.name == "snapshots":  # named by the commit: what follows is of the same
        fetch = partial(fetch, revision=folder.name)
    if need != "text" or (folder / INDEX).exists():
        check_index(folder)
    fetch(allow_patterns=[INDEX, *SETTINGS])
    blocks = load_blocks(folder).folders(folder)
    for block in blocks:
        check_needed(block, need)
    # A block brings a UNet of its own and shares all else, which lies in the first folder.
    wanted = [*networks(folder, need), *(f"{block.name}/unet" for block in blocks[1:] if need == "all")]
    _fetch_weights(fetch, folder, wanted)
    return folder


def _fetch_weights(fetch: "partial[str]", folder: Path, wanted: list[str]) -> None:
    """The plain weights of some networks, and those in 16 bits of networks that have no others."""
    if wanted:
        others = [f"*{mark}*" for mark in COPIES]
        fetch(allow_patterns=[f"{name}/*.safetensors" for name in wanted], ignore_patterns=others)
    for variant in VARIANTS:
        if lacking := [name for name in wanted if not weight_files(part(folder, name))]:
            fetch(allow_patterns=[f"{name}/*.{variant}*.safetensors" for name in lacking])
