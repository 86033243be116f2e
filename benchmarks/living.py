"""A data set whose clients change: seconds and images of an update in place, beside a fresh run of the same plan.

Sixty clients hold fifty of a thousand classes each (the first all), with a prompt of their own for each. One leaves,
one joins, one has other counts, half of them leave.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import typer

from benchmarks.results_file import save_result
from fglfast.engine.build import Engine, build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.text import text_fingerprint
from fglfast.lab.bench.work import quiet
from fglfast.payload import Payload, PayloadHeader
from fglfast.payload.merge import Merged, merge_payloads
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize

CLASSES = tuple(f"class {number}" for number in range(1000))
HELD = 50  # classes of a client
CLIENTS = 60


def main(
    recipe: str = "mini-few", images_per_class: int = 4, shard_size: int = 512, engines: str = "engines/build"
) -> None:
    """Draw, then change the clients step by step; each step is also drawn anew, and has to be the same bytes."""
    asked = find_recipe(recipe)
    engine = build_engine(asked, asked.model_folder(), Path(engines))
    settings = SynthesisSettings(images_per_class=images_per_class, shard_size=shard_size, sampling=asked.sampling)
    sent = {f"client {number:02d}": _payload(engine, number) for number in range(CLIENTS)}
    rows = []
    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder = Path(temporary)
        synthesize(engine, merge_payloads(sent.values()), settings, folder / "living")
        for what, change in CHANGES.items():
            change(engine, sent)
            rows.append({"change": what} | _step(engine, merge_payloads(sent.values()), settings, folder))
            typer.echo(json.dumps(rows[-1]))
    facts = {"clients": CLIENTS, "classes": len(CLASSES), "images": images_per_class * len(CLASSES)}
    save_result("living", {"recipe": recipe, **facts, "steps": rows})


def _step(engine: Engine, merged: Merged, settings: SynthesisSettings, folder: Path) -> dict[str, Any]:
    fresh = folder / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    begun = time.monotonic()
    updated = synthesize(engine, merged, settings, folder / "living", update=True)
    half = time.monotonic()
    anew = synthesize(engine, merged, settings, fresh)
    ended = time.monotonic()
    return {
        "update_seconds": round(half - begun, 2),
        "update_images": updated.images,
        "fresh_seconds": round(ended - half, 2),
        "fresh_images": anew.images,
        "equal": _content(folder / "living") == _content(fresh),
    }


def _content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _payload(engine: Engine, number: int, more: int = 0) -> Payload:
    """A client with a prompt of its own for each of its classes; `more` images of each."""
    draw = np.random.default_rng(number)
    labels = np.sort(draw.choice(len(CLASSES), HELD, replace=False))
    if number == 0:
        labels = np.arange(len(CLASSES))  # every class is somebody's
    shape = (len(labels), engine.shapes.text_length, engine.shapes.text_width)
    return Payload(
        header=PayloadHeader(
            client=f"client {number:02d}",
            class_names=CLASSES,
            prompt_level="instance",
            text_encoder=text_fingerprint(engine.model),
        ),
        embeddings=draw.standard_normal(shape).astype(np.float16),
        token_ids=None,
        labels=labels,
        counts=draw.integers(1, 50, len(labels)) + more,
    )


def _leave(_: Engine, sent: dict[str, Payload]) -> None:
    del sent["client 59"]


def _join(engine: Engine, sent: dict[str, Payload]) -> None:
    sent["client 60"] = _payload(engine, 60)


def _count(engine: Engine, sent: dict[str, Payload]) -> None:
    sent["client 07"] = _payload(engine, 7, more=3)


def _halve(_: Engine, sent: dict[str, Payload]) -> None:
    for name in list(sent)[1::2]:
        del sent[name]


CHANGES: dict[str, Callable[[Engine, dict[str, Payload]], None]] = {
    "one client left": _leave,
    "one joined": _join,
    "one has more images": _count,
    "half of them left": _halve,
}


if __name__ == "__main__":
    typer.run(main)
