"""How the server collects the clients' payloads."""

import shutil
import time
from pathlib import Path

from flwr.app import Message

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.base.errors import BadInputError, FglError
from fglfast.base.files import write_atomic
from fglfast.engine.recipe import find_recipe
from fglfast.federation import wire
from fglfast.federation.experiment import Experiment
from fglfast.generator.load import read_shapes
from fglfast.generator.text import text_fingerprint
from fglfast.payload import AllowList, PayloadHeader, load_payload
from fglfast.payload.merge import Merged, check_prompts, fingerprint, looks, merge_payloads


class Collected(Settings):
    """What collecting the payloads took, kept beside them: with this file the collection is whole."""

    bytes_down: int
    bytes_up: int
    seconds: float


def collected(
    grid: wire.CountedGrid, experiment: Experiment, class_names: tuple[str, ...], folder: Path
) -> tuple[Merged, Collected]:
    """The prompts of all clients, and what asking for them took; what is in `folder` already is not asked again.

    Raises:
        FglError: too few clients sent a sound payload, or classes send the same prompt.
    """
    model = find_recipe(experiment.recipe).model_folder()
    payloads, took = collect_payloads(grid, experiment, class_names, model, folder)
    allowed = experiment.allowed()
    merged = merge_payloads(load_payload(path, allowed=allowed) for path in payloads)
    check_prompts(merged, experiment.allow_same_prompt, "allow_same_prompt = true in the experiment")
    return merged, took


def collect_payloads(
    grid: wire.CountedGrid, experiment: Experiment, class_names: tuple[str, ...], model: Path, folder: Path
) -> tuple[list[Path], Collected]:
    """Ask every client for its payload and keep those that pass inspection, one file a client.

    Raises:
        FglError: too few clients sent a sound payload.
    """
    done = folder / "collected.json"
    if done.exists():
        return sorted(folder.glob("*.safetensors")), Collected.model_validate_json(done.read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    down, up, begun = grid.down, grid.up, time.monotonic()
    asked = wire.config(
        **{
            "prompt-level": experiment.prompt_level,
            "class-names": list(class_names),
            "learn": experiment.learn.model_dump_json(),
            "validation-share": experiment.validation_share,
        }
    )
    encoder, allowed = text_fingerprint(model), experiment.allowed()
    shapes = read_shapes(model, find_recipe(experiment.recipe).image_size)
    fits = (shapes.text_length, shapes.text_width)
    kept: dict[str, Path] = {}
    seen: set[str | None] = set()
    for reply in grid.ask(wire.PAYLOAD, asked):
        node, path = reply.metadata.src_node_id, folder / f"{reply.metadata.src_node_id:020d}.safetensors"
        try:
            header, content = _keep(reply, path, encoder, fits, allowed)
        except BadInputError as error:
            note(f"client {node}: payload refused: {error.message}")
        else:
            name = looks(header.client)
            if header.class_names == class_names and name not in kept and content not in seen:
                kept[name] = path
                seen |= {content} - {None}
                continue
            note(f"client {node}: payload refused: its classes or name do not fit the others', or it copies one")
        path.unlink(missing_ok=True)
    if len(kept) < grid.least:
        raise FglError(f"{len(kept)} sound payloads, {grid.least} are needed", "see what was refused above")
    took = round(time.monotonic() - begun, 3)
    collected = Collected(bytes_down=grid.down - down, bytes_up=grid.up - up, seconds=took)
    write_atomic(done, collected.model_dump_json() + "\n")
    return sorted(kept.values()), collected


def _keep(
    reply: Message, path: Path, text_encoder: str, shape: tuple[int, int], allowed: AllowList | None
) -> tuple[PayloadHeader, str | None]:
    """Write a client's payload and read it as what a stranger wrote; one that did not fit would stop all others.

    Returns:
        Its header and its `fingerprint`.

    Raises:
        BadInputError: there is none, or it is refused.
    """
    record = reply.content.config_records.get(wire.CONFIG)
    content = record.get(wire.FILE) if record else None
    if not isinstance(content, bytes):
        raise BadInputError("there is none", "ask the client")
    write_atomic(path, content)
    payload = load_payload(path, text_encoder=text_encoder, allowed=allowed)
    if payload.embeddings is None or payload.embeddings.shape[1:] != shape:
        raise BadInputError(
            f"rows of {list(payload.prompts().shape[1:])}, not embeddings of {list(shape)}", "embed again"
        )
    return payload.header, fingerprint(payload)
