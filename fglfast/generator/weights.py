"""Which files in the folder of a network are read: its configs, and one copy of its weights. Loads no network.

Repositories often hold the same weights several times: plain, in 16 bits (`model.fp16.safetensors`), without the moving
average. The plain ones are read; where there are none, those in 16 bits.
"""

from pathlib import Path

VARIANTS = ("fp16", "bf16")  # as diffusers calls them; the first that is there is read
COPIES = (*VARIANTS, "non_ema", "openvino")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a network is loaded from, sorted; none where there are none."""
    chosen = variant(folder)
    return sorted(path for path in folder.glob("*.safetensors") if _copy(path) == chosen)


def variant(folder: Path) -> str | None:
    """What diffusers and transformers call the weights that are read; None if they are plain, or not there."""
    copies = {_copy(path) for path in folder.glob("*.safetensors")}
    return None if None in copies else next((name for name in VARIANTS if name in copies), None)


def counted_files(folder: Path) -> list[Path]:
    """What decides how a network or tokenizer works, sorted: the weights that are read, configs and vocabularies."""
    texts = [path for path in folder.glob("*") if path.suffix in {".json", ".txt"}]
    read = (None, variant(folder))
    return sorted([*weight_files(folder), *(path for path in texts if not is_index(path) or _copy(path) in read)])


def is_index(path: Path) -> bool:
    """Whether a file says which weights lie in which of several files."""
    return ".safetensors.index." in path.name


def _copy(path: Path) -> str | None:
    """Which further copy of the weights a file belongs to; None for the plain one."""
    return next((mark for mark in COPIES if mark in path.name), None)
