"""Payloads, tars, JSON and TOML by coverage-guided fuzzing (atheris, libFuzzer), from sound files on.

Whatever is not refused by an error of ours ends it, and libFuzzer leaves the input beside `--corpus`. Needs
`pip install 'fglfast[fuzz]'`, which has wheels for Python 3.11 to 3.13.
"""

import io
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import atheris
import typer

with atheris.instrument_imports(include=["fglfast"]):
    from fglfast.base.errors import FglError
    from fglfast.base.untrusted import json_object
    from fglfast.engine.recipe import Recipe
    from fglfast.payload import load_payload
    from fglfast.shards.headers import content, members

from benchmarks.hostile.case import Case
from benchmarks.hostile.facts import RECIPE
from benchmarks.hostile.payloads import FILE, Payloads
from benchmarks.hostile.shards import FIRST, Shards

Target = Literal["payload", "tar", "json", "toml"]
ROOM = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def main(
    target: Target,
    seconds: Annotated[int, typer.Option(help="For how long.")] = 60,
    corpus: Annotated[Path | None, typer.Option(help="Folder of inputs that were worth keeping.")] = None,
) -> None:
    """Fuzz one reader until something breaks or the time is up."""
    folder = Path(tempfile.mkdtemp(dir=ROOM, prefix="fglfast-fuzz-"))
    kept = corpus or folder / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    read, sound = _target(target, folder)
    for number, seed in enumerate(sound):
        (kept / f"sound-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=1024", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={kept.parent}/", str(kept)], read)
    atheris.Fuzz()


def _target(target: Target, folder: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """A reader of one input, and sound inputs."""
    if target == "payload":
        kind = Payloads()
        return lambda data: _payload(kind, folder, data), kind.samples
    if target == "tar":
        return _tar, [Shards("train").files[FIRST]]
    if target == "json":
        return _json, [Shards("train").files["dataset.json"], b'{"a": [1, 2.5, {"b": null}]}']
    return lambda data: _toml(folder, data), [RECIPE.encode()]


def _payload(kind: Payloads, folder: Path, data: bytes) -> None:
    (folder / FILE).write_bytes(data)
    try:
        accepted = load_payload(folder / FILE)
    except FglError:
        return
    if problem := kind.lie(Case("atheris", {}), folder, accepted):
        raise AssertionError(problem)


def _tar(data: bytes) -> None:
    stream = io.BytesIO(data)
    try:
        total = sum(len(content(stream, member)) for member in members(stream))
    except tarfile.ReadError:
        return
    if total > len(data):
        raise AssertionError("files larger than their tar")


def _json(data: bytes) -> None:
    try:
        json_object(data)
    except ValueError:
        return


def _toml(folder: Path, data: bytes) -> None:
    (folder / "r.toml").write_bytes(data)
    try:
        Recipe.from_toml(folder / "r.toml")
    except FglError:
        return


if __name__ == "__main__":
    typer.run(main)
