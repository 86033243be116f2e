"""Where a model folder's parts lie. The bundled student brings a network alone; all else it shares with its teacher.

Only folders inside the package share: any other model's parts are its own, or missing.
"""

from importlib.resources import files
from pathlib import Path

PARTS = ("text_encoder", "text_encoder_2", "unet", "vae", "scheduler", "tokenizer", "tokenizer_2")
BUNDLED = ("mini", "mini-few")  # first the one whose parts the others share
ASSETS = Path(str(files("fglfast") / "assets"))


def bundled(name: str) -> Path:
    """The folder of a bundled model."""
    return ASSETS / name


def is_bundled(folder: Path) -> bool:
    """Whether a folder is that of a bundled model, however it is written."""
    return folder.resolve() in [bundled(name).resolve() for name in BUNDLED]


def places(model: Path) -> tuple[Path, ...]:
    """The folders that a model's parts lie in: its own, and after it the one that it shares parts of."""
    return (model, bundled(BUNDLED[0])) if is_bundled(model) else (model,)


def part(model: Path, name: str) -> Path:
    """A folder or file of a model, such as `vae` or `prompts.json`; in its own folder if nowhere."""
    return next((folder / name for folder in places(model) if (folder / name).exists()), model / name)
