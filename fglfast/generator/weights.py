"""Which files in the folder of a network are read: its configs, and one copy of its weights. Loads no network.

Repositories often hold the same weights several times: plain, in 16 bits (`model.fp16.safetensors`), without the moving
average. The plain ones are read; where there are none, those in 16 bits. Files of other names than diffusers and
transformers open are left alone, as those do.
"""

from pathlib import Path

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import read_object

VARIANTS = ("fp16", "bf16")  # as diffusers calls them; the first that is there is read
COPIES = (*VARIANTS, "non_ema", "openvino")
DIFFUSERS = ("unet", "vae")  # folders of its networks
MOST_INDEX, MOST_TENSORS = 16 << 20, 20_000  # bytes, and tensors that are named
HINT = "use a complete model folder, of safetensors and configs"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a network is loaded from, sorted; none where there are none.

    Raises:
        BadInputError: an index of several files cannot be used.
    """
    return _opened(folder, variant(folder))


def variant(folder: Path) -> str | None:
    """What diffusers and transformers call the weights that are read; None if they are plain, or not there."""
    return next((name for name in (None, *VARIANTS) if _opened(folder, name)), None)


def shards(index: Path) -> set[str]:
    """The names of the files that an index of weights says they lie in.

    Raises:
        BadInputError: it cannot be read, or names a file that is not beside it.
    """
    names = read_object(index, MOST_INDEX, HINT, MOST_TENSORS).get("weight_map")
    if not isinstance(names, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in names.values()
    ):
        raise BadInputError(f"{index}: weight_map names something that is not a file beside it", HINT)
    return set(names.values())


def counted_files(folder: Path) -> list[Path]:
    """What decides how a network or tokenizer works, sorted: the weights that are read, configs and vocabularies."""
    texts = [path for path in folder.glob("*") if path.suffix in {".json", ".txt"}]
    read = (None, variant(folder))
    return sorted([*weight_files(folder), *(path for path in texts if not is_index(path) or _copy(path) in read)])


def is_index(path: Path) -> bool:
    """Whether a file says which weights lie in which of several files."""
    return ".safetensors.index." in path.name


def _opened(folder: Path, copy: str | None) -> list[Path]:
    """The files of a copy of the weights that are there, as the library opens them whose network it is."""
    own = folder.name in DIFFUSERS  # as diffusers lays out a model; all others are transformers'
    stem, mark = "diffusion_pytorch_model" if own else "model", f".{copy}" if copy else ""
    whole, index = folder / f"{stem}{mark}.safetensors", folder / f"{stem}.safetensors.index{mark}.json"
    # Where both are, diffusers takes those of the index and transformers the whole file.
    names = shards(index) if index.is_file() and (own or not whole.is_file()) else {whole.name}
    return sorted(path for name in names if (path := folder / name).is_file())


def _copy(path: Path) -> str | None:
    """Which further copy of the weights a file belongs to; None for the plain one."""
    return next((mark for mark in COPIES if mark in path.name), None)
