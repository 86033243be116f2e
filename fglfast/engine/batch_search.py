"""Batch sizes by measurement: larger until it is no faster, or does not fit."""

import json
from pathlib import Path

import psutil
import torch

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import exclusive, lock_of, unfinished_folder, write_atomic
from fglfast.base.timing import interleaved
from fglfast.base.untrusted import read_object
from fglfast.engine import backends
from fglfast.engine.build import build_block
from fglfast.engine.exported import DECODER, UNET, export_folder
from fglfast.engine.finding import Source
from fglfast.engine.manifest import Key
from fglfast.engine.passes import decoder_pass, unet_pass
from fglfast.engine.recipe import Build, Recipe

CANDIDATES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
GAIN = 1.03  # less is noise
ROUNDS = 3
MOST_BYTES = 1 << 16  # of the file that remembers what was measured
GROWTH = 2.5  # the next candidate is twice the last; and a little

FIELDS = {UNET: "unet_batch", DECODER: "vae_batch"}


def search_batches(recipe: Recipe, model: Path, engines: Path) -> Recipe:
    """The recipe with the UNet and VAE batch sizes that make the most images a second on this device.

    They are measured once and remembered beside the engines, so that a resumed run draws with the same. Of a model of
    several blocks the first is measured.

    Args:
        recipe: its own batch sizes only serve to choose the backend and the precision, where those are "auto".
        model: the diffusers directory.
        engines: folder that holds engines by key.
    """
    key = build_block(recipe, model, engines).manifest.key  # and no more: it would lie beside those that are measured
    plain = key.model_copy(update={"build": key.build.model_copy(update=dict.fromkeys(FIELDS.values(), 0))})
    path = engines / f"batches-{plain.digest()}.json"
    if not path.exists():
        with exclusive(lock_of(path)):  # measuring side by side, ranks could choose differently
            if not path.exists():
                _search(key, Source(model, recipe.image_size, recipe.sampling, engines), path)
    best = _remembered(path)
    return recipe.as_built(key.build).model_copy(update={field: best[name] for name, field in FIELDS.items()})


def _remembered(path: Path) -> dict[str, int]:
    """The batches that were measured before."""
    hint = "delete it, and the batches are measured again"
    best = read_object(path, MOST_BYTES, hint)
    if best.keys() != {UNET, DECODER} or not all(
        isinstance(batch, int) and batch in CANDIDATES for batch in best.values()
    ):
        raise BadInputError(f"{path}: not the batches of {UNET} and {DECODER}", hint)
    return best


def _search(key: Key, source: Source, path: Path) -> None:
    """Find the fastest batch of UNet and decoder, and write it to `path`."""
    if backends.find_backend(key.build.backend).needs_export:  # an engine is whole without what it was compiled from
        from fglfast.engine.export import export_for  # seconds to import, which known batches need not wait for
        from fglfast.engine.trajectory import Reference

        export_for(key, Reference(source.model, source.shapes, source.sampling), source.engines)
    best = {}
    for name in FIELDS:
        found = _rates(name, key, source, path)
        best[name] = max(found, key=found.__getitem__)
        told = ", ".join(f"{batch}: {rate:.1f}" for batch, rate in found.items())
        note(f"{Path(name).stem}: {best[name]} rows a pass (rows/s at {told})")
    write_atomic(path, json.dumps(best) + "\n")


def _rates(name: str, key: Key, source: Source, path: Path) -> dict[int, float]:
    """Rows a second of a network at every candidate that was worth trying and fitted; the other's batch is small.

    Raises:
        FglError: not even the smallest fitted, or another failure.
    """
    rates: dict[int, float] = {}
    for batch in CANDIDATES:
        before = psutil.virtual_memory().available
        build = key.build.model_copy(update={**dict.fromkeys(FIELDS.values(), CANDIDATES[0]), FIELDS[name]: batch})
        with unfinished_folder(path) as folder:  # beside what it will tell, and gone when a killed search is repeated
            try:
                rate = batch / _seconds(name, build, source, export_folder(key, source.engines), folder)
            except (FglError, MemoryError, torch.OutOfMemoryError) as error:
                if not rates:
                    raise FglError(f"{Path(name).stem}: {batch} rows a pass fail: {error}", "give a batch") from error
                break
        gained = rate > GAIN * max(rates.values(), default=0.0)
        rates[batch] = rate
        after = psutil.virtual_memory().available
        if not gained or GROWTH * max(0, before - after) > after:
            break
    return rates


def _seconds(name: str, build: Build, source: Source, exported: Path, engine: Path) -> float:
    """Median seconds of a pass; what was compiled for it is let go."""
    backend, shapes = backends.find_backend(build.backend), source.shapes
    backend.compile(build, shapes, exported, engine)
    networks, make = backend.load(build, shapes, source.model, engine), unet_pass if name == UNET else decoder_pass
    run = make(networks, shapes, getattr(build, FIELDS[name]))
    return interleaved({name: run}, ROUNDS)[name].seconds
