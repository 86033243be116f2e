"""How the server collects the clients' payloads, and so settles who is in the federation."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fglfast.base.config import Settings
from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.wording import some
from fglfast.engine.recipe import find_recipe
from fglfast.federation import wire
from fglfast.federation.experiment import Experiment
from fglfast.federation.grid import CountedGrid, Meter, called
from fglfast.federation.members import Member, tell_claims
from fglfast.generator.load import read_shapes
from fglfast.generator.text import text_fingerprint
from fglfast.payload import Payload, load_payload
from fglfast.payload.claims import HONEST, excessive
from fglfast.payload.merge import (
    Merged,
    check_prompts,
    fingerprint,
    looks,
    merge_payloads,
    same_prompts,
    same_words,
)
from fglfast.payload.read import load_signed
from fglfast.synthesis.class_rows import ClassRows
from fglfast.synthesis.routed import Router

COLLECTED = "collected.json"


class Collected(Settings):
    """What collecting the payloads took, and from whom; kept beside them: with this file the collection is whole."""

    bytes_down: int
    bytes_up: int
    seconds: float
    members: tuple[Member, ...]


def merged_payloads(folder: Path, experiment: Experiment) -> Merged:
    """The prompts of all clients that `collect_payloads` left in a folder.

    Raises:
        BadInputError: classes send the same prompt.
    """
    allowed, rows_of = experiment.allowed(), _embeddings(experiment)
    paths = [folder / file_name(member.node) for member in _settled(folder, experiment).members]
    merged = merge_payloads(rows_of(load_payload(path, allowed=allowed)) for path in sorted(paths))
    check_prompts(merged, experiment.allow_same_prompt, "allow_same_prompt = true in the experiment")
    return merged


def collect_payloads(
    grid: CountedGrid, experiment: Experiment, class_names: tuple[str, ...], folder: Path
) -> Collected:
    """Ask every client for its payload and keep those that pass inspection, one file a client; ask once.

    Who is refused is named with the reason, to the operator and to the client. See `collect_again`.

    Raises:
        IncompleteError: too few clients sent a sound payload.
    """
    done = folder / COLLECTED
    if done.exists():
        return _settled(folder, experiment)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    meter = Meter(grid)
    door = _Door(experiment, class_names, folder)
    asked = wire.config(**_question(experiment, class_names))
    answers = grid.ask(wire.PAYLOAD, asked, wire.payload_of, dict.fromkeys(grid.nodes(), ""))
    for node, content in sorted(answers.good.items()):
        try:
            door.admit(node, content)
        except BadInputError as error:
            why = error.message.removeprefix(f"{folder / file_name(node)}: ")
            answers.refused[node] = wire.one_line(why)
            grid.tell(node, why)
    for member, why in door.turn_out():
        answers.refused[member.node] = wire.one_line(f"{member.name!r} {why}")
        grid.tell(member.node, why)
    answers.names = dict.fromkeys(answers.names, "") | {member.node: member.name for member in door.members}
    answers.good = {node: content for node, content in answers.good.items() if node not in answers.refused}
    note(answers.line("payloads"))
    grid.enough(len(door.members), "sent a sound payload")
    tell_claims(door.members, experiment.trusted_counts)
    spent = meter.read()
    collected = Collected(
        bytes_down=spent["bytes_down"],
        bytes_up=spent["bytes_up"],
        seconds=spent["client_seconds"],
        members=tuple(door.members),
    )
    collected.save(done)
    return collected


def collect_again(grid: CountedGrid, experiment: Experiment, class_names: tuple[str, ...], folder: Path) -> Path | None:
    """Ask every client once more: some joined since, some left, some have other images.

    Returns:
        A folder beside `folder` with what they sent now, to take its place; None where that is what is there.

    Raises:
        IncompleteError: as `collect_payloads`; what is there stays.
    """
    fresh = folder.with_name(f"{folder.name}.again")
    shutil.rmtree(fresh, ignore_errors=True)
    now = collect_payloads(grid, experiment, class_names, fresh).members
    before = Collected.from_json(folder / COLLECTED).members
    old, new = (
        {member.name: (member.node, load_payload(place / file_name(member.node)).digest()) for member in members}
        for place, members in ((folder, before), (fresh, now))
    )
    joined, left = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    changed = sorted(name for name in new.keys() & old.keys() if new[name] != old[name])
    told = {"joined": joined, "left": left, "changed": changed}
    said = [f"{what}: {some(names)}" for what, names in told.items() if names]
    note(f"clients: {'; '.join(said) or 'as before'}")
    if said:
        return fresh
    shutil.rmtree(fresh)
    return None


def take_place(fresh: Path, folder: Path) -> None:
    """Let payloads that were asked for again take the place of those there; a kill leaves the ones or the others."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old)


def _settled(folder: Path, experiment: Experiment) -> Collected:
    """What a collection settled, without members whose key the list has no more."""
    collected, allowed = Collected.from_json(folder / COLLECTED), experiment.allowed()
    if allowed is None:
        return collected
    inside = tuple(member for member in collected.members if allowed.clients.get(member.name) == member.key)
    if out := [member.name for member in collected.members if member not in inside]:
        note(f"{some(out)}: not on the list of keys any more, and asked for nothing; run it with again to draw anew")
    return collected.model_copy(update={"members": inside})


def _question(experiment: Experiment, class_names: tuple[str, ...]) -> dict[str, Any]:
    """What a client is asked for its payload."""
    asked = {
        "prompt-level": experiment.prompt_level,
        "class-names": list(class_names),
        "learn": experiment.learn.model_dump_json(),
        "validation-share": experiment.validation_share,
    }
    if experiment.inventory is None:
        return asked
    return asked | {"route": experiment.route.model_dump_json(), "inventory": experiment.inventory.read_bytes()}


def _embeddings(experiment: Experiment) -> Callable[[Payload], Payload]:
    """What makes the embeddings of a payload that is routed.

    Raises:
        BadInputError: the inventory cannot be read, or is another model's.
    """
    if experiment.inventory is None:
        return lambda payload: payload
    return Router(find_recipe(experiment.recipe).model_folder(), experiment.inventory).rows


class _Door:
    """Who comes in: one payload after the other, read as what a stranger wrote; sound ones are kept in a folder."""

    def __init__(self, experiment: Experiment, class_names: tuple[str, ...], folder: Path) -> None:
        self.experiment, self.class_names, self.folder = experiment, class_names, folder
        self.members: list[Member] = []
        self.names: dict[str, int] = {}  # node of each name that is taken, in the form in which names are told apart
        self.contents: dict[str, int] = {}  # node of each payload that nobody else can have made
        recipe = find_recipe(experiment.recipe)
        model = recipe.model_folder()
        shapes = read_shapes(model, recipe.image_size)  # refused before clients are asked
        self.encoder, self.allowed = text_fingerprint(model), experiment.allowed()
        self.shape = (shapes.text_length, shapes.text_width)
        self.rows, self.embeddings = ClassRows(model, experiment.templates, experiment.domains), _embeddings(experiment)

    def admit(self, node: int, content: bytes) -> None:
        """Keep a client's payload and make it a member.

        Raises:
            BadInputError: it is refused, or its name or content is another's.
        """
        path = self.folder / file_name(node)
        write_atomic(path, content)
        try:
            self._admit(node, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def turn_out(self) -> list[tuple[Member, str]]:
        """Whose claims would leave next to nothing of the others' prompts, now that all are known: they are no members.

        Returns:
            Them, with the reason, which says how the operator mends it.
        """
        if self.experiment.max_share_per_client < 1 or all(member.images <= HONEST for member in self.members):
            return []
        paths = [self.folder / file_name(member.node) for member in self.members]
        payloads = {path: self.embeddings(load_payload(path, allowed=self.allowed)) for path in paths}
        turned: list[tuple[Member, str]] = []
        while found := excessive(merge_payloads(payloads.values()), self.experiment.trusted_counts):
            for member in [member for member in self.members if member.name in found]:
                path = self.folder / file_name(member.node)
                path.unlink()
                del payloads[path]
                self.members.remove(member)
                turned.append((member, f"{found[member.name]}, and is not in trusted_counts"))
        return turned

    def _admit(self, node: int, path: Path) -> None:
        payload, signature = load_signed(path, text_encoder=self.encoder, allowed=self.allowed)
        payload = self._checked(payload)
        name, own = payload.header.client, fingerprint(payload)
        if (first := self.names.get(looks(name))) is not None:
            hint = "each client needs a name of its own"
            raise BadInputError(f"the name {name!r}, or one that looks like it, is that of node {first}", hint)
        if own is not None and (first := self.contents.get(own)) is not None:
            raise BadInputError(f"{name!r} sent the payload of {called('', first)}", "send one of your own")
        self.names[looks(name)] = node
        if own is not None:
            self.contents[own] = node
        key = signature.key if signature and self.allowed else None
        self.members.append(Member(name=name, node=node, images=int(payload.counts.sum()), key=key))

    def _checked(self, payload: Payload) -> Payload:
        """With its embeddings; refused is what would stop all others if merged, or draw what its labels do not say."""
        if payload.routes is not None and self.experiment.inventory is None:
            raise BadInputError("routing, and this federation has no inventory of adapters", "embed without --route")
        payload = self.embeddings(payload)
        if payload.embeddings is None or payload.embeddings.shape[1:] != self.shape:
            found = list(payload.prompts().shape[1:])
            raise BadInputError(f"rows of {found}, not embeddings of {list(self.shape)}", "embed again")
        if payload.header.class_names != self.class_names:
            raise BadInputError("its class names are not the federation's", "embed with those of the server")
        if payload.header.prompt_level != self.experiment.prompt_level:
            level = payload.header.prompt_level
            raise BadInputError(f"prompts of level {level}, not {self.experiment.prompt_level}", "embed again")
        own = payload.header.prompt_level == "learned" and not self.experiment.allow_same_prompt
        if own and (same := same_prompts(merge_payloads([payload]))):
            raise BadInputError(same_words(same), "learn them again, from images of each class")
        return self.rows.check(payload)


def file_name(node: int) -> str:
    """Of the payload that a node sent."""
    return f"{node:020d}.safetensors"
