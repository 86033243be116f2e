"""What an engine is held against, computed once a model: float32's own run, and what eager PyTorch loses of it.

Both are kept beside the engines, so that all backends and precisions of a model share them.
"""

import hashlib
import json
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fglfast.base.console import note
from fglfast.base.files import exclusive, lock_of, write_atomic
from fglfast.engine.backends.eager import eager, projecting
from fglfast.engine.backends.eight_bits import float_type
from fglfast.engine.export import dtype_of
from fglfast.engine.exported import DECODER
from fglfast.engine.manifest import Key
from fglfast.engine.networks import Networks, in_chunks
from fglfast.engine.parity import Errors, errors
from fglfast.engine.trajectory import Reference, Trajectory, products
from fglfast.generator.load import own_device
from fglfast.sampler.schedule import Schedule

PROMPTS = ("", "t-shirt", "ankle boot, dark plain square", "a photograph")
STEPS = 8
SEED = 0
FORMAT = 1
PACKAGES = ("torch", "diffusers", "transformers")
NOTHING = Errors(text_encoder=0.0, text_projection=0.0, unet=0.0, vae_decoder=0.0)

T = TypeVar("T")


def float32_run(reference: Reference, key: Key, engines: Path) -> Trajectory:
    """The gate's sampling by the float32 model: found beside the engines, or computed and left there.

    The key may be that of any engine of the model at this image size.

    Raises:
        BadInputError: what comes out is not finite.
    """
    path = engines / f"reference-{_digest(_facts(reference, key))}.safetensors"
    with exclusive(lock_of(path)):
        run = _read(path, reference.unguided(STEPS)[1])
        if run is None:
            run = _where_it_fits(partial(reference.trajectory, PROMPTS, STEPS, SEED))
            write_atomic(path, save({name: t.contiguous() for name, t in run.tensors().items()}, {"by": run.by}))
    return run


def eager_errors(reference: Reference, run: Trajectory, key: Key, engines: Path) -> Errors:
    """What eager PyTorch loses of a run in the floats that an engine computes in, on this device; kept likewise.

    Float32 on a CPU is not measured: it is what the run was made in.
    """
    device = own_device()
    dtype = float_type(key.build.precision, device)
    if device == "cpu" and dtype == torch.float32:
        return NOTHING
    facts = _facts(reference, key) | {"dtype": str(dtype), "device": key.device}
    path = engines / f"eager-{_digest(facts)}.json"
    with exclusive(lock_of(path)):
        found = _known(path)
        if found is None:
            found = _where_it_fits(partial(_lost, reference, run, dtype))
            found.save(path)
    return found


def _lost(reference: Reference, run: Trajectory, dtype: torch.dtype, device: str) -> Errors:
    """What eager PyTorch loses, a row at a time; where nothing finite comes out, all of it: 1."""
    generator = reference.generator()  # on the CPU, where a narrower copy costs the GPU nothing
    unet, decoder = (deepcopy(network) for network in (generator.unet, generator.decoder))
    wide = dtype_of(DECODER, generator, dtype)
    text, projection = (deepcopy(network).to(device) for network in (generator.text, generator.projection))
    networks = Networks(
        encode=in_chunks(eager(text, device, torch.float32), 1),
        project=in_chunks(projecting(projection, device, dtype), 1),
        denoise=in_chunks(eager(unet.to(device, dtype), device, dtype), 1),
        decode=in_chunks(eager(decoder.to(device, wide), device, wide), 1),
    )
    with products(tf32=device == "cuda"):
        found = errors(networks, run).model_dump()
    return Errors(**{name: lost if math.isfinite(lost) else 1.0 for name, lost in found.items()})


def _where_it_fits(compute: Callable[[str], T]) -> T:
    """On the GPU if there is one and it has the memory, else on the CPU."""
    try:
        return compute(own_device())
    except torch.OutOfMemoryError:
        note("the gate's own model does not fit into the GPU's memory: it runs on the CPU, which takes longer")
    torch.cuda.empty_cache()  # out here: within, the error would hold on to what lies on the GPU
    return compute("cpu")


def _facts(reference: Reference, key: Key) -> dict[str, Any]:
    """What a run depends on, but for the last bits."""
    sampling, schedule = reference.unguided(STEPS)
    return {
        "gate": {"format": FORMAT, "prompts": PROMPTS, "steps": STEPS, "seed": SEED},
        "weights": key.weights,
        "image_size": key.build.image_size,
        "sampling": sampling.model_dump(mode="json"),
        "schedule": asdict(schedule),
        "versions": {package: key.versions.get(package) for package in PACKAGES},
    }


def _digest(facts: dict[str, Any]) -> str:
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _read(path: Path, schedule: Schedule) -> Trajectory | None:
    """A run that was kept; None where there is none, or it is damaged."""
    if not path.exists():
        return None
    names = {field.name for field in fields(Trajectory)} - {"by", "schedule"}
    try:
        with safe_open(path, "pt") as stored:
            return Trajectory(
                by=stored.metadata()["by"], schedule=schedule, **{name: stored.get_tensor(name) for name in names}
            )
    except (SafetensorError, KeyError, TypeError) as error:
        note(f"{path}: damaged ({error}); it is computed again")
        return None


def _known(path: Path) -> Errors | None:
    """Errors that were kept; None where there are none, or they are damaged."""
    try:
        return Errors.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
