"""A complete data set unpacked into a folder a class."""

from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import exclusive, write_atomic
from fglfast.base.folders import leads_out, subfolders
from fglfast.images.folder_names import FILE, folder_names, write_names
from fglfast.shards.description import FACTS, IMAGES, LOCKS
from fglfast.shards.tar import read_samples, shard_name


def export_imagefolder(out: Path, class_names: tuple[str, ...], shards: int) -> Path | None:
    """Unpack the shards of a complete folder to `out/imagefolder/CLASS/KEY.png`; images already there are left alone.

    Returns:
        Where they are; None when another rank is at it.

    Raises:
        BadInputError: a shard is damaged or has a label of no class, a folder is a link to somewhere else, or of no
            class.
    """
    with exclusive(out / LOCKS / IMAGES, wait=False) as free:
        return _export(out, class_names, shards) if free else None


def _export(out: Path, class_names: tuple[str, ...], shards: int) -> Path:
    target = out / IMAGES
    names = folder_names(class_names, folds_case=(out / FACTS.upper()).exists())
    folders = [target / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        if leads_out(folder, out):
            raise BadInputError(f"{folder}: a link that leads out of the data set", "delete it")
    if strange := {folder.name for folder in subfolders(target)} - set(names):
        raise BadInputError(f"{target / min(strange)}: of no class of this data set", f"delete {target}, run again")
    renamed = write_names(target, names, class_names)
    for number in range(shards):
        shard = out / shard_name(number)
        for name, sample in read_samples(shard):
            if sample.label >= len(folders):
                raise BadInputError(f"{shard}: {name} has label {sample.label} of {len(folders)} classes", "verify it")
            path = folders[sample.label] / name
            if not path.exists():
                write_atomic(path, sample.image)
    if renamed:
        note(f"classes whose names cannot be folder names: {renamed}; {FILE} there says which folder is whose")
    return target
