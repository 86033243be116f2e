"""Model folders that are made of other files, a checkpoint's or an adapter's: once, and kept for all runs of a user."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.files import file_digest, fill_once
from fglfast.base.limits import unwritable
from fglfast.generator.kinds import INDEX
from fglfast.generator.parts import PARTS, part
from fglfast.generator.weights import counted_files

OWN = (INDEX, "prompts.json")  # of a model folder's files, those that are no part's


def made_folders() -> Path:
    """Where they are kept: where FGLFAST_MODELS says, or in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FGLFAST_MODELS") or Path(cache) / "fglfast" / "models")


def made_once(stem: str, what: str, of: Iterable[Path], make: Callable[[Path], None]) -> Path:
    """The folder that is made of some files, whose name begins with a stem; `make` fills an empty one.

    It is found by what is in the files, and by `what` is made, for people: a part of that may be a setting.

    Raises:
        FglError: it cannot be written; see `unwritable`.
    """
    digest = hashlib.sha256(f"{what}\0".encode())
    for path in of:
        digest.update(bytes.fromhex(file_digest(path)))
    folder = made_folders() / f"{stem}-{digest.hexdigest()[:16]}"

    def told(unfinished: Path) -> None:
        note(f"making {folder}: {what}")
        make(unfinished)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fill_once(folder, told)
    except OSError as error:
        hint = "free space, or choose another folder by the variable FGLFAST_MODELS"
        raise unwritable(error, folder.parent, hint) from error
    return folder


def model_files(model: Path) -> list[Path]:
    """The files of a model folder that count in what is made of it: all that `copy_others` copies, and its UNet."""
    own = [path for name in OWN if (path := part(model, name)).exists()]
    return [*(file for name in PARTS for file in counted_files(part(model, name))), *own]


def copy_others(model: Path, folder: Path) -> None:
    """All of a model folder but its UNet."""
    for name in PARTS:
        if name != "unet" and part(model, name).is_dir():
            (folder / name).mkdir()
            for path in counted_files(part(model, name)):
                shutil.copyfile(path, folder / name / path.name)
    for name in OWN:
        if part(model, name).exists():
            shutil.copyfile(part(model, name), folder / name)
