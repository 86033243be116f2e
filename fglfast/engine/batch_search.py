"""Batch sizes by measurement: larger until it is no faster, or does not fit. Knows nothing of sampling."""

import json
import tempfile
from pathlib import Path

import psutil
import torch

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import exclusive, write_atomic
from fglfast.base.timing import interleaved
from fglfast.base.untrusted import read_object
from fglfast.engine import backends
from fglfast.engine.build import Engine, build_engine, export_folder
from fglfast.engine.export import DECODER, UNET
from fglfast.engine.passes import decoder_pass, unet_pass
from fglfast.engine.recipe import Build, Recipe

CANDIDATES = (2, 4, 8, 16, 32, 64, 128, 256, 512)
GAIN = 1.03  # less is noise
ROUNDS = 3
MOST_BYTES = 1 << 16  # of the file that remembers what was measured
GROWTH = 2.5  # the next candidate is twice the last; and a little

Rates = dict[str, dict[int, float]]


def search_batches(recipe: Recipe, model: Path, engines: Path) -> Recipe:
    """The recipe with the UNet and VAE batch sizes that make the most images a second on this device.

    They are measured once and remembered beside the engines, so that a resumed run draws with the same.

    Args:
        recipe: its own batch sizes only serve to choose the backend, if that is "auto".
        model: the diffusers directory.
        engines: folder that holds engines by key.
    """
    engine = build_engine(recipe, model, engines)
    build = engine.manifest.key.build
    plain = engine.manifest.key.model_copy(update={"build": build.model_copy(update={"unet_batch": 0, "vae_batch": 0})})
    path = engines / f"batches-{plain.digest()}.json"
    if not path.exists():
        with exclusive(path.with_name(f".{path.name}.lock")):  # measuring side by side, ranks could choose differently
            if not path.exists():
                _search(engine, build, engines, path)
    best = _remembered(path)
    return recipe.model_copy(update={"backend": build.backend, "unet_batch": best[UNET], "vae_batch": best[DECODER]})


def _remembered(path: Path) -> dict[str, int]:
    """The batches that were measured before."""
    hint = "delete it, and the batches are measured again"
    best = read_object(path, MOST_BYTES, hint)
    if best.keys() != {UNET, DECODER} or not all(
        isinstance(batch, int) and batch in CANDIDATES for batch in best.values()
    ):
        raise BadInputError(f"{path}: not the batches of {UNET} and {DECODER}", hint)
    return best


def _search(engine: Engine, build: Build, engines: Path, path: Path) -> None:
    """Find the fastest batch of UNet and decoder, and write it to `path`."""
    rates = _measure(engine, build, engines)
    best = {name: max(found, key=found.__getitem__) for name, found in rates.items()}
    for name, found in rates.items():
        told = ", ".join(f"{batch}: {rate:.1f}" for batch, rate in found.items())
        note(f"{Path(name).stem}: {best[name]} rows a pass (rows/s at {told})")
    write_atomic(path, json.dumps(best) + "\n")


def _measure(engine: Engine, build: Build, engines: Path) -> Rates:
    """Rows a second of UNet and decoder at every candidate that was worth trying and fitted."""
    backend, onnx = backends.find_backend(build.backend), export_folder(engine.manifest.key, engines)
    rates: Rates = {UNET: {}, DECODER: {}}
    for batch in CANDIDATES:
        before = psutil.virtual_memory().available
        asked = build.model_copy(update={"unet_batch": batch, "vae_batch": batch})
        with tempfile.TemporaryDirectory(dir=engines, prefix=".search-") as folder:
            try:
                backend.compile(asked, engine.shapes, onnx, Path(folder))
                networks = backend.load(asked, engine.shapes, engine.model, Path(folder))
                runs = {
                    UNET: unet_pass(networks, engine.shapes, batch),
                    DECODER: decoder_pass(networks, engine.shapes, batch),
                }
                found = {name: batch / timing.seconds for name, timing in interleaved(runs, ROUNDS).items()}
            except (FglError, MemoryError, torch.OutOfMemoryError):
                break
        gained = any(rate > GAIN * max(rates[name].values(), default=0.0) for name, rate in found.items())
        for name, rate in found.items():
            rates[name][batch] = rate
        after = psutil.virtual_memory().available
        if not gained or GROWTH * max(0, before - after) > after:
            break
    return rates
