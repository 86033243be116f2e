"""Pairs of noise and latents by a compiled teacher, in shards that outlive a kill.

A pair is an image of a synthesis plan before it is decoded: its noise follows from its identity and is not stored.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from fglfast.base.console import Progress
from fglfast.base.files import claim, write_atomic
from fglfast.base.untrusted import json_object, loading
from fglfast.engine.build import Engine
from fglfast.engine.networks import sent
from fglfast.generator.learning.student import Pairs
from fglfast.payload.merge import Merged
from fglfast.sampler.guide import Guide
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.draw import rows_together
from fglfast.synthesis.plan import Plan, make_plan
from fglfast.synthesis.starting_noise import starting_noises

SHARD = 1024  # pairs


@dataclass(frozen=True)
class TeacherImages:
    """What a teacher drew.

    Attributes:
        plan: identities, in order.
        folder: of the shards.
        seconds: that the shards took, in all calls together; None if of some it was not kept.
    """

    plan: Plan
    folder: Path
    seconds: float | None


def draw_pairs(
    engine: Engine, merged: Merged, per_class: int, seed: int, sampling: Sampling, out: Path
) -> TeacherImages:
    """Sample as a teacher does until all pairs are in `out`; a second call goes on after the last whole shard.

    The seed of the noises is to be another than that of any data set that is drawn later.

    Raises:
        BadInputError: `out` holds other pairs.
    """
    facts: dict[str, object] = {"engine": engine.key, "sampling": sampling.model_dump(mode="json")}
    plan = make_plan(merged, per_class, seed, SHARD, facts)
    claimed = {"plan": plan.digest(), "pairs": plan.images, **Guide.of(engine.model, sampling).model_dump()}
    claim(out / "pairs.json", claimed, "pairs of another teacher or payloads", more=True)
    conditioning, schedule = Conditioning(merged, engine), Schedule.of_model(engine.model, sampling)
    missing = [number for number in range(plan.shards) if not shard_path(out, number).exists()]
    begun = plan.images - sum(plan.size(number) for number in missing)
    batch = rows_together(engine)
    took = out / "seconds.json"
    with loading(took):
        kept = json_object(took.read_bytes(), plan.shards) if took.exists() else {}
    with Progress("pairs", total=plan.images, start=begun) as progress:
        for number in missing:
            since = time.monotonic()
            parts, items = [], plan.shard(number)
            for start in range(0, len(items), batch):
                some = items[start : start + batch]
                rows = [item.row for item in some]
                text_BLE, negative_BLE = conditioning.rows(rows), conditioning.negatives(rows)
                noise_BCHW = torch.from_numpy(starting_noises(seed, some, engine.shapes.latent))
                denoise, noise_BCHW = engine.networks.denoise, sent(noise_BCHW, engine.networks.device)
                parts.append(sample(denoise, noise_BCHW, text_BLE, negative_BLE, schedule).half().cpu())
                progress.advance(len(some))
            write_atomic(shard_path(out, number), save({"latents": torch.cat(parts).contiguous()}))
            kept[str(number)] = round(time.monotonic() - since, 3)
            write_atomic(took, json.dumps(kept))
    return TeacherImages(plan, out, sum(kept.values()) if len(kept) == plan.shards else None)


def read_pairs(drawn: TeacherImages, merged: Merged, latent: tuple[int, int, int]) -> Pairs:
    """All pairs in memory; a million of mini's take two gigabytes."""
    assert merged.embeddings is not None
    items = list(drawn.plan.items())
    data = [load_file(shard_path(drawn.folder, number))["latents"] for number in range(drawn.plan.shards)]
    rows = torch.from_numpy(merged.content[[item.row for item in items]])
    noise_NCHW = torch.from_numpy(starting_noises(drawn.plan.seed, items, latent)).half()
    return Pairs(noise_NCHW, torch.cat(data), torch.from_numpy(merged.embeddings.astype(np.float32)), rows)


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"pairs-{number:06d}.safetensors"
