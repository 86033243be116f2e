"""A complete data set unpacked into a folder a class."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import exclusive, write_atomic
from fglfast.base.folders import is_system, leads_out, subfolders
from fglfast.base.wording import some
from fglfast.images.folder_names import FILE, folder_names, write_names
from fglfast.shards.description import FACTS, IMAGES, LOCKS
from fglfast.shards.tar import check_places, read_samples, shard_name


def export_imagefolder(out: Path, class_names: tuple[str, ...], shards: int) -> Path | None:
    """Unpack the shards of a complete folder to `out/imagefolder/CLASS/KEY.png`.

    A file that is there and holds its image is left alone, one of other bytes is written anew. Files of other names
    stay, and are said.

    Returns:
        Where they are; None when another rank is at it.

    Raises:
        BadInputError: a shard is damaged, lies under another's name or has a label of no class, a folder is a link to
            somewhere else, or of no class.
    """
    with exclusive(out / LOCKS / IMAGES, wait=False) as free:
        return _export(out, class_names, shards) if free else None


def _export(out: Path, class_names: tuple[str, ...], shards: int) -> Path:
    check_places(out, shards)
    target = out / IMAGES
    names = folder_names(class_names, folds_case=(out / FACTS.upper()).exists())
    folders = [target / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if leads_out(folder, out):
            raise BadInputError(f"{folder}: a link that leads out of the data set", "delete it")
    if strange := {folder.name for folder in subfolders(target)} - set(names):
        raise BadInputError(f"{target / min(strange)}: of no class of this data set", f"delete {target}, run again")
    renamed, made = write_names(target, names, class_names), Counter[Path]()
    for number in range(shards):
        for name, sample in read_samples(out / shard_name(number), len(folders)):
            path = folders[sample.label] / name
            if not _holds(path, sample.image):
                write_atomic(path, sample.image)
            made[path.parent] += 1
    _note_others(target, folders, made)
    if renamed:
        note(f"classes whose names cannot be folder names: {renamed}; {FILE} there says which folder is whose")
    return target


def _holds(path: Path, image: bytes) -> bool:
    """Whether a file is there and holds an image, to the byte."""
    return path.is_file() and path.stat().st_size == len(image) and path.read_bytes() == image


def _note_others(target: Path, folders: Sequence[Path], made: Counter[Path]) -> None:
    """Say so where class folders hold more than the data set's images: whoever reads them takes it along."""
    there = {folder: sum(not is_system(path.name) for path in folder.iterdir()) for folder in folders}
    if strange := {folder: more for folder in folders if (more := there[folder] - made[folder]) > 0}:
        held = f"{sum(strange.values()):,} in {some([folder.name for folder in strange])}"
        note(f"{target}: files that hold no image of this data set are left as they are: {held}")
