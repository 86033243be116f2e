"""A complete data set as Parquet files, as `datasets` and the Hub write labelled images."""

import json
from collections.abc import Sequence
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import exclusive, file_digest, replacing
from fglfast.base.folders import leads_out
from fglfast.base.wording import some
from fglfast.shards.description import LOCKS, PARQUET
from fglfast.shards.tar import check_places, read_samples, shard_name

ROWS = 256  # written together
MADE_OF = b"shard_sha256"


def export_parquet(out: Path, class_names: tuple[str, ...], shards: int) -> Path | None:
    """Write `out/parquet/train-NNNNN-of-NNNNN.parquet`, a file a shard: images as they are encoded, labels with names.

    A file that is there and was made of its shard as it is now is left alone; one of another shard is written anew.
    What was not made here stays, and is said.

    Returns:
        The folder; None when another rank is at it.

    Raises:
        BadInputError: a shard is damaged, lies under another's name or has a label of no class, or the folder is a link
            to somewhere else.
    """
    with exclusive(out / LOCKS / PARQUET, wait=False) as free:
        if not free:
            return None
        check_places(out, shards)
        target = out / PARQUET
        target.mkdir(exist_ok=True)
        if leads_out(target, out):
            raise BadInputError(f"{target}: a link that leads out of the data set", "delete it")
        names = [f"train-{number:05d}-of-{shards:05d}.parquet" for number in range(shards)]
        for number, name in enumerate(names):
            _export(out / shard_name(number), class_names, target / name)
        others = [path for path in target.glob("*.parquet") if path.name not in names]
        for path in filter(_made_of, others):
            path.unlink()
        if foreign := sorted(path.name for path in others if path.exists()):
            note(f"{target}: left as they are, not made of this data set: {some(foreign)}")
    return target


def _export(shard: Path, class_names: tuple[str, ...], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    made_of = file_digest(shard).encode()
    if path.exists() and _made_of(path) == made_of:
        return
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    metadata = {b"huggingface": json.dumps({"info": {"features": _features(class_names)}}), MADE_OF: made_of}
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata)
    with replacing(path) as stream, parquet.ParquetWriter(stream, schema) as writer:
        rows: list[dict[str, object]] = []
        for name, sample in read_samples(shard, len(class_names)):
            rows.append({"image": {"bytes": sample.image, "path": name}, "label": sample.label})
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _made_of(path: Path) -> bytes:
    """The checksum of the shard that a file was made of; empty if it was not made here, or cannot be read."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return bytes((parquet.read_schema(path).metadata or {}).get(MADE_OF, b""))
    except pa.ArrowException:
        return b""


def _features(class_names: Sequence[str]) -> dict[str, object]:
    """The columns in the words of `datasets`."""
    return {"image": {"_type": "Image"}, "label": {"names": list(class_names), "_type": "ClassLabel"}}
