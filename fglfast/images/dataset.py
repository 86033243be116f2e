"""A user's labelled images, whatever they are stored in. Knows nothing of clients or models.

A data set is named `PATH[:SPLIT]`: a folder of class folders, an npz, a parquet file or folder, a folder
saved by Hugging Face `datasets`, or `fashion` for the bundled sample.
"""

import unicodedata
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, MissingExtraError
from fglfast.base.folders import leads_out
from fglfast.base.limits import check_memory
from fglfast.base.names import MAX_CLASS_NAME, MAX_CLASSES
from fglfast.base.untrusted import json_object, loading, read_bytes
from fglfast.images.arrays import read_arrays
from fglfast.images.decoding import MOST_BYTES, decoded
from fglfast.images.labelled import LabelledImages, Opener, Skipped, to_rgb

BUNDLED = "fashion"
NAMED = 3  # skipped images that a note names
PARQUET_ROWS = 256  # read at once


def read_dataset(source: str) -> LabelledImages:
    """Read a data set named `PATH[:SPLIT]`.

    Raises:
        BadInputError: nothing is there, its content is refused, or no image can be read.
        MissingExtraError: the folder needs the `datasets` package.
    """
    path, split = _locate(source)
    if path.suffix == ".npz":
        found = _read_npz(path, split, source)
    elif path.suffix == ".parquet" or (path.is_dir() and list(path.glob("*.parquet"))):
        found = _read_parquet(path, split, source)
    elif path.is_dir() and any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        found = _read_saved(path, split, source)
    elif path.is_dir():
        found = _read_folder(path / split if split else path, source)
    else:
        raise BadInputError(f"{path}: not a kind of data set that is known", "give class folders, npz or parquet")
    return _checked(found)


def _locate(source: str) -> tuple[Path, str | None]:
    if source == BUNDLED or source.startswith(f"{BUNDLED}:"):
        return Path(str(files("fglfast") / "assets" / "fashion.npz")), source.partition(":")[2] or None
    if Path(source).exists():
        return Path(source), None
    name, _, split = source.rpartition(":")
    if name and Path(name).exists():
        return Path(name), split
    parent = Path(source).parent
    close = get_close_matches(Path(source).name, [p.name for p in parent.iterdir()] if parent.is_dir() else [], n=1)
    hint = f"did you mean {parent / close[0]}?" if close else f"check the path; {BUNDLED}:private is the bundled sample"
    raise BadInputError(f"{source}: no such data set", hint)


def _read_npz(path: Path, split: str | None, source: str) -> LabelledImages:
    prefix = f"{split}_" if split else ""
    wanted = (f"{prefix}images", f"{prefix}labels", "class_names")
    try:
        present, found = read_arrays(path, wanted)
        images, labels, names = map(found.get, wanted)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path}: cannot be read as npz ({error})", "save plain arrays with numpy.savez") from error
    if images is None:
        splits = [f"{path}:{name.removesuffix('_images')}" for name in present if name.endswith("_images")]
        hint = f"choose a split: {', '.join(splits)}" if splits else "add images"
        raise BadInputError(f"{path}: no array named {prefix}images", hint)
    if labels is None:
        raise BadInputError(f"{path}: no array named {prefix}labels", "add it: one integer an image")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))):
        raise BadInputError(
            f"{path}: {prefix}images is {images.dtype} {list(images.shape)}", "need uint8 [N,H,W] or [N,H,W,1|3|4]"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: {prefix}labels is {labels.dtype} {list(labels.shape)}", f"need {len(images)} integers"
        )
    labels = labels.astype(np.int64)
    called_by = _counted(int(labels.max(initial=-1)) + 1, path) if names is None else tuple(map(str, names.ravel()))
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    openers = tuple(_array_opener(image) for image in images)
    called = tuple(f"row {row}" for row in range(len(images)))
    return LabelledImages(called_by, labels, openers, (), source, called)


def _read_folder(folder: Path, source: str) -> LabelledImages:
    if not folder.is_dir():
        raise BadInputError(f"{folder}: no such folder", "name one of its splits")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    names = tuple(unicodedata.normalize("NFC", entry.name) for entry in classes)
    candidates: list[tuple[str, int, Opener]] = []
    outside: list[Skipped] = []
    for label, class_folder in enumerate(classes):
        if leads_out(class_folder, folder):
            outside.append(Skipped(class_folder.name, "a link out of the data set"))
            continue
        for path in sorted(class_folder.rglob("*")):
            inner = path.relative_to(folder)
            if path.is_dir() or any(part.startswith(".") for part in inner.parts):
                continue
            if leads_out(path, folder):
                outside.append(Skipped(str(inner), "a link out of the data set"))
                continue
            candidates.append((str(inner), label, _file_opener(path)))
    return _verified(names, candidates, outside, source)


def _read_parquet(path: Path, split: str | None, source: str) -> LabelledImages:
    import pyarrow.parquet

    pattern = f"{split}*.parquet" if split else "*.parquet"
    paths = [path] if path.is_file() else sorted(path.glob(pattern))
    if not paths:
        raise BadInputError(f"{path}: no parquet file named {pattern}", "name another split")
    columns: dict[str, list[Any]] = {"image": [], "label": []}
    with loading(path, "check the file"):
        files = [pyarrow.parquet.ParquetFile(part) for part in paths]
        for file in files:
            if not columns.keys() <= set(file.schema_arrow.names):
                raise BadInputError(f"{path}: columns are {', '.join(file.schema_arrow.names)}", "need image and label")
            groups = range(file.metadata.num_row_groups)
            check_memory(sum(file.metadata.row_group(group).total_byte_size for group in groups), str(path))
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(columns)):
                check_memory(batch.nbytes, str(path))  # short columns may spread to more than their file announces
                for name, values in columns.items():
                    values += batch.column(name).to_pylist()
        described = _described(files[0].schema_arrow.metadata or {})
    names, labels = _numbered(columns["label"], described, path)
    contents = [value.get("bytes") if isinstance(value, dict) else value for value in columns["image"]]
    candidates = [
        (f"row {row}", label, _bytes_opener(content if isinstance(content, bytes) else b""))
        for row, (content, label) in enumerate(zip(contents, labels, strict=True))
    ]
    return _verified(names, candidates, [], source)


def _read_saved(path: Path, split: str | None, source: str) -> LabelledImages:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"{path} was saved by the datasets package", "pip install datasets") from error
    with loading(path, "save it anew"):
        table: Any = datasets.load_from_disk(str(path))
    if isinstance(table, datasets.DatasetDict):
        if split not in table:
            raise BadInputError(
                f"{path}: no split named {split!r}", f"choose one: {', '.join(f'{path}:{k}' for k in table)}"
            )
        table = table[split]
    if not {"image", "label"} <= set(table.column_names):
        raise BadInputError(f"{path}: columns are {', '.join(table.column_names)}", "need columns image and label")
    names, labels = _numbered(table["label"], getattr(table.features["label"], "names", None), path)
    table = table.cast_column("image", datasets.Image(decode=False))
    candidates = [
        (f"row {row}", label, _bytes_opener(table[row]["image"]["bytes"] or b"")) for row, label in enumerate(labels)
    ]
    return _verified(names, candidates, [], source)


def _numbered(values: Sequence[Any], described: list[str] | None, path: Path) -> tuple[tuple[str, ...], list[int]]:
    """Class names and labels of a label column: integers with or without names, or strings."""
    if all(isinstance(value, str) for value in values):
        places = {name: place for place, name in enumerate(sorted(set(values)))}
        return tuple(places), [places[value] for value in values]
    if not all(isinstance(value, int) for value in values):
        raise BadInputError(f"{path}: column label is neither integers nor strings", "mend the column")
    return tuple(described or _counted(max(values, default=-1) + 1, path)), list(values)


def _counted(classes: int, path: Path) -> tuple[str, ...]:
    """Names of classes that have none but their number."""
    if classes > MAX_CLASSES:
        raise BadInputError(f"{path}: a label of {classes - 1}, at most {MAX_CLASSES} classes are read", "mend labels")
    return tuple(map(str, range(classes)))


def _described(metadata: dict[bytes, bytes]) -> list[str] | None:
    """Class names as the datasets package leaves them in a table's metadata."""
    found: Any = json_object(metadata.get(b"huggingface", b"{}"))
    for key in ("info", "features", "label", "names"):
        found = found.get(key) if isinstance(found, dict) else None
    named = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return found if named else None


def _verified(
    names: tuple[str, ...], candidates: list[tuple[str, int, Opener]], skipped: list[Skipped], source: str
) -> LabelledImages:
    """Decode every image once, so that none fails later; those that cannot be read are left out."""
    with ThreadPoolExecutor() as pool:
        reasons = list(pool.map(lambda candidate: _problem(candidate[2]), candidates))
    skipped = skipped + [
        Skipped(name, reason) for (name, _, _), reason in zip(candidates, reasons, strict=True) if reason
    ]
    kept = [candidate for candidate, reason in zip(candidates, reasons, strict=True) if not reason]
    labels = np.array([label for _, label, _ in kept], dtype=np.int64)
    openers, called = tuple(opener for _, _, opener in kept), tuple(name for name, _, _ in kept)
    return LabelledImages(names, labels, openers, tuple(skipped), source, called)


def _problem(opener: Opener) -> str:
    try:
        to_rgb(opener())
    except Exception as error:  # PIL raises what each of its decoders raises
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return ""


def _checked(found: LabelledImages) -> LabelledImages:
    """Refuse what no stage could use; name what was left out."""
    for name in found.class_names:
        if not name.strip() or not name.isprintable() or len(name) > MAX_CLASS_NAME:
            raise BadInputError(
                f"{found.source}: class name {name[:40]!r} is empty, too long or unprintable", "rename it"
            )
    if len(set(found.class_names)) < len(found.class_names):
        raise BadInputError(f"{found.source}: two classes have one name", "rename one of them")
    if found.skipped:
        named = ", ".join(f"{entry.name} ({entry.reason})" for entry in found.skipped[:NAMED])
        more = ", ..." if len(found.skipped) > NAMED else ""
        note(f"skipped {len(found.skipped)} of {len(found) + len(found.skipped)} images: {named}{more}")
    if not len(found):
        raise BadInputError(f"{found.source}: no image can be read", "give folders named by class with images in them")
    if found.labels.min() < 0 or found.labels.max() >= len(found.class_names):
        raise BadInputError(f"{found.source}: labels reach outside the {len(found.class_names)} classes", "mend labels")
    empty = [name for name, count in zip(found.class_names, found.counts(), strict=True) if not count]
    if empty:
        note(f"{len(empty)} classes of {found.source} have no image: {', '.join(empty[:NAMED])}")
    return found


def _array_opener(pixels: NDArray[np.uint8]) -> Opener:
    return lambda: Image.fromarray(pixels)


def _file_opener(path: Path) -> Opener:
    def opened() -> Image.Image:
        return decoded(read_bytes(path, MOST_BYTES))

    return opened


def _bytes_opener(content: bytes) -> Opener:
    return lambda: decoded(content)
