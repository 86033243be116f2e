"""Where a model's parts lie: in its own folder, but for two kinds of model that bring a network and share the rest.

The bundled student shares its teacher's, a block of a blockwise model those of the folder it lies in.
"""

from importlib.resources import files
from pathlib import Path

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae", "scheduler", "tokenizer", "tokenizer_2")
BUNDLED = ("mini", "mini-few")  # first the one whose parts the others share
BLOCKS, BLOCK = "blocks.json", "block_*"  # the list of a blockwise model, and folders of its blocks after the first
ASSETS = Path(str(files("fglfast") / "assets"))


def bundled(name: str) -> Path:
    """The folder of a bundled model."""
    return ASSETS / name


def name_of(model: Path) -> str:
    """What a generator is called: as its folder is.

    `pretrain` and `distill` write `NAME/model`, and the hub's cache keeps `models--OWNER--NAME/snapshots/REVISION`.
    """
    folder = model.absolute()
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.parent.name if folder.name == "model" and folder.parent.name else folder.name


def is_bundled(folder: Path) -> bool:
    """Whether a folder is that of a bundled model, however it is written."""
    return folder.resolve() in [bundled(name).resolve() for name in BUNDLED]


def places(model: Path) -> tuple[Path, ...]:
    """The folders that a model's parts lie in: its own, then the one whose parts it shares."""
    if is_bundled(model):
        return (model, bundled(BUNDLED[0]))
    return (model, model.parent) if is_block(model) else (model,)


def is_block(folder: Path) -> bool:
    """Whether a folder is one of the blocks of the model that it lies in."""
    return folder.match(BLOCK) and (folder.parent / BLOCKS).is_file()


def part(model: Path, name: str) -> Path:
    """A folder or file of a model, such as `vae` or `prompts.json`; where it would be, if it is nowhere."""
    return next((folder / name for folder in places(model) if (folder / name).exists()), model / name)
