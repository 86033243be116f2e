"""What a data set would take, found without fetching weights, building an engine or drawing anything."""

from pathlib import Path
from typing import Any

from fglfast.base.console import note
from fglfast.base.timing import interleaved
from fglfast.base.writable import usable_folder
from fglfast.engine.backends import chosen
from fglfast.engine.build import Engine, build_engine, is_built
from fglfast.engine.passes import decoder_pass, unet_pass
from fglfast.engine.recipe import Build, Recipe
from fglfast.generator.fingerprints import model_fingerprint
from fglfast.generator.kinds import embedded_guidance, networks
from fglfast.generator.parts import part
from fglfast.generator.weights import weight_files
from fglfast.payload.merge import Merged
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.shards.description import FACTS
from fglfast.synthesis.conditioning import check_rows
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.folder import refuse_another
from fglfast.synthesis.older import change
from fglfast.synthesis.settings import SynthesisSettings, plan_of
from fglfast.synthesis.synthesize import check_work, room, sound_images

ROUNDS = 5  # of each pass that is timed


def foreseen(
    recipe: Recipe,
    merged: Merged,
    settings: SynthesisSettings,
    out: Path,
    engines: Path,
    world_size: int = 1,
    update: bool = False,
    unpacked: bool = False,
) -> dict[str, Any]:
    """What `synthesize` would do: images, shards, passes, bytes beside those that are free, and seconds.

    The bytes are those of the shards, and `unpacked` of all images once more, as `--format` asks. `seconds` is None
    where the engine is not built yet. Of a model of the hub, configs and tokenizers are fetched. Where its weights are
    not here, neither the payloads' text encoder nor the folder's plan is compared with it, and `plan` is None.

    Raises:
        UsageError, BadInputError, MissingExtraError: what `synthesize` would refuse.
    """
    chosen(recipe.backend, recipe.precision)
    model = recipe.model_folder(need="configs")
    made = recipe.lora or embedded_guidance(model)  # of the weights that are there
    there = not made and all(weight_files(part(model, name)) for name in networks(model, "all"))
    if there:
        check_work(merged, settings, out, model, recipe.image_size, update)
    else:
        usable_folder(out)
        check_rows(merged, model)
        note(f"{recipe.model}: its weights are not here yet, so whether they fit the payloads is not known yet")
    if there and is_built(recipe, model, engines):
        found = estimate(build_engine(recipe, model, engines), merged, settings, out, world_size, update)
    else:
        from fglfast.generator.load import read_shapes  # seconds to import, of an engine that is there not needed

        read_shapes(model, recipe.image_size)  # refused as the engine's build would
        weights = model_fingerprint(model) if there else None
        found = _foreseen(recipe, weights, model, merged, settings, out, world_size, update)
    more = room(found["images"], recipe.image_size, out)[0] if unpacked else 0
    return found | {"bytes_at_most": found["bytes_at_most"] + more}


def estimate(
    engine: Engine, merged: Merged, settings: SynthesisSettings, out: Path, world_size: int = 1, update: bool = False
) -> dict[str, Any]:
    """As `foreseen`, by an engine that is there, with the seconds that it takes."""
    key = engine.manifest.key
    found = _foreseen(key.build, key.weights, engine.model, merged, settings, out, world_size, update)
    return found | {"seconds": round(_seconds(engine, found["passes"], found["decodes"]), 1)}


def seconds_per_image(engine: Engine, sampling: Sampling) -> float:
    """What an engine takes for an image of a full batch, measured anew at each call."""
    build = engine.build
    rows = [rows for _, rows in Schedule.of_model(engine.model, sampling).rows()]
    passes, decodes = passes_of(build.unet_batch, rows, build.unet_batch, build.vae_batch)
    return _seconds(engine, passes, decodes) / build.unet_batch


def _foreseen(
    sizes: Recipe | Build,
    weights: str | None,
    model: Path,
    merged: Merged,
    settings: SynthesisSettings,
    out: Path,
    world_size: int,
    update: bool,
) -> dict[str, Any]:
    """All of it but the seconds; without a plan and changes where the weights' fingerprint is not known."""
    settings = settings.drawn_with(model)
    plan, changes = plan_of(weights or "", sizes.image_size, merged, settings), None
    if weights and update and (out / FACTS).exists():
        to_be = Drawn.to_be(plan, weights, sizes.image_size, model.name, merged, settings)
        if refuse_another(out, to_be, update):
            changes = change(Drawn.of(out), to_be, sound_images(out).sound)
    left = changes.new if changes else sum(map(plan.size, plan.remaining(out)))
    rows = [rows for _, rows in Schedule.of_model(model, settings.sampling).rows()]
    passes, decodes = passes_of(-(-left // world_size), rows, sizes.unet_batch, sizes.vae_batch)
    needed, free = room(plan.images if changes else left, sizes.image_size, out)
    return {
        "plan": plan.digest() if weights else None,
        "classes": len(plan.present),
        "images": plan.images,
        "images_left": left,
        "change": changes and {**vars(changes), "words": str(changes)},
        "shards": plan.shards,
        "bytes_at_most": needed,
        "bytes_free": free,
        "passes": passes,
        "decodes": decodes,
        "seconds": None,
    }


def passes_of(images: int, rows: list[int], unet_batch: int, vae_batch: int) -> tuple[int, int]:
    """Passes through UNet and decoder that the images of one process take, of `rows` of the UNet at each step.

    Batches, of `unet_batch` images, are full whatever the shard size, but for the last.
    """
    full, rest = divmod(images, unet_batch)
    of_batch = {size: sum(-(-size * each // unet_batch) for each in rows) for size in (unet_batch, rest)}
    decodes = {size: -(-size // vae_batch) for size in (unet_batch, rest)}
    return full * of_batch[unet_batch] + of_batch[rest], full * decodes[unet_batch] + decodes[rest]


def _seconds(engine: Engine, passes: int, decodes: int) -> float:
    """What an engine takes for so many passes, by the clock."""
    build = engine.build
    timed = interleaved(
        {
            "denoise": unet_pass(engine.networks, engine.shapes, build.unet_batch),
            "decode": decoder_pass(engine.networks, engine.shapes, build.vae_batch),
        },
        ROUNDS,
    )
    return passes * timed["denoise"].seconds + decodes * timed["decode"].seconds
