"""Classes as folders: the names a folder may have, and `labels.json`, which says the others.

`labels.json` lies beside the class folders: an object from folder to class name, in the order of the labels.
"""

import json
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.folders import is_system, leads_out
from fglfast.base.names import MAX_CLASSES
from fglfast.base.untrusted import json_object, read_bytes
from fglfast.images.columns import plain_names

FILE = "labels.json"
MOST_BYTES = 64 << 20  # of it: 100,000 names of 200 characters
NAME_BYTES = 255  # of a folder's name, on the file systems of Linux, macOS and Windows
PLAIN_BYTES = 200  # of what is kept of a name that no folder can have
NFC = partial(unicodedata.normalize, "NFC")  # macOS may give another form back


def folder_names(class_names: Sequence[str], folds_case: bool = False) -> tuple[str, ...]:
    """The folder of each class: its name where a folder can have it, else its number and what can be kept.

    Names are all different; a file system that folds case takes `Fox` and `fox` for one.
    """
    fold = str.casefold if folds_case else str
    folders, taken = [""] * len(class_names), set[str]()
    for label, name in enumerate(class_names):
        if _fits(name) and fold(name) not in taken:
            folders[label] = name
            taken.add(fold(name))
    for label in (label for label, folder in enumerate(folders) if not folder):
        folder = _nearest(label, class_names[label])
        while fold(folder) in taken:
            folder += "_"
        folders[label] = folder
        taken.add(fold(folder))
    return tuple(folders)


def _nearest(label: int, name: str) -> str:
    kept = "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name)
    kept = NFC(kept).encode()[:PLAIN_BYTES].decode(errors="ignore").strip(" .")
    return f"{label:04d} {kept}".strip()


def _fits(name: str) -> bool:
    """Whether a folder can have a name on any of the usual systems, and is then read under it."""
    control = any(unicodedata.category(letter) == "Cc" for letter in name)
    free = not is_system(name) and name.casefold() != FILE
    return NFC(name) == name and not control and free and "/" not in name and 0 < len(name.encode()) <= NAME_BYTES


def write_names(folder: Path, folders: Sequence[str], class_names: Sequence[str]) -> int:
    """Write `labels.json` where the folders, sorted, would not give the classes in their order.

    Returns:
        Classes whose folder has another name.
    """
    if list(class_names) != sorted(folders):
        said = dict(zip(folders, class_names, strict=True))
        write_atomic(folder / FILE, json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    return sum(own != name for own, name in zip(folders, class_names, strict=True))


def read_names(folder: Path, folders: Sequence[str]) -> dict[str, str]:
    """The class of each folder in the order of the labels: as `labels.json` says, else their own names, sorted.

    Folders and classes are written in one way (NFC).

    Raises:
        BadInputError: two folders have one name, or `labels.json` is a link to elsewhere, leaves a folder out or names
            two classes alike.
    """
    own = {NFC(name): NFC(name) for name in sorted(folders)}
    if len(own) < len(folders):
        raise BadInputError(f"{folder}: two folders have one name, written in two ways", "rename one of them")
    path = folder / FILE
    if not path.is_file():
        return own
    if leads_out(path, folder):
        raise BadInputError(
            f"{path}: a link that leads out of the data set", "put the file itself there, or delete the link"
        )
    try:
        text = read_bytes(path, MOST_BYTES).removeprefix(BOM_UTF8)  # editors on Windows begin with it
        said = json_object(text, MAX_CLASSES)
    except (OSError, ValueError):
        said = {}
    if not said or not all(isinstance(name, str) for name in said.values()):
        note(f"{path}: not used, as it does not map folders to the names of classes")
        return own
    plain = plain_names([list(said.values())], path, NFC)
    said = {NFC(name): plain(called) for name, called in said.items()}
    if missing := [name for name in own if name not in said]:
        raise BadInputError(f"{path}: does not name the class of folder {missing[0]}", f"add it, or delete {FILE}")
    note(f"{path}: says the names of the classes and their order")
    return said
