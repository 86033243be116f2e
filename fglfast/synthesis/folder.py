"""Whose the folder of a data set is, and where its images go: into it, or first into `.update` within it."""

import shutil
from contextlib import suppress
from pathlib import Path

from fglfast.base.console import note
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import exclusive, write_atomic
from fglfast.base.folders import numbered
from fglfast.base.wording import differences
from fglfast.base.writable import CARD, check_card
from fglfast.shards.description import FACTS, LOCKS, SWAP, UPDATE, refuse_links, write_description
from fglfast.shards.tar import is_cut, shard_name
from fglfast.synthesis.card import card
from fglfast.synthesis.drawn import FIXED, Drawn
from fglfast.synthesis.older import change
from fglfast.synthesis.swap import roll_forward, take_place


def enter(out: Path) -> bool:
    """Make the folder, and move an update that was stopped at its end to its end, if there is one; ranks take turns.

    Raises:
        BadInputError: a part of the folder is a link to somewhere else.
    """
    refuse_links(out)
    (out / LOCKS).mkdir(parents=True, exist_ok=True)
    with exclusive(out / LOCKS / "claim"):
        return roll_forward(out)


def begin(out: Path, drawn: Drawn, update: bool = False) -> Path:
    """Write a data set's card and description, or check that those there are of the same plan; ranks take turns.

    With `update`, what the folder holds may become the data set.

    Returns:
        Where the shards go: `out`, or the folder that takes its place by `finish`.

    Raises:
        UsageError: the folder belongs to another plan; what differs is said.
        BadInputError: a part of the folder is a link to somewhere else, or a shard that is there is cut short.
    """
    enter(out)
    with exclusive(out / LOCKS / "claim"):
        if refuse_another(out, drawn, update):
            folder = _staged(out / UPDATE, drawn)
        else:
            folder = out
            if update:  # to what is here already
                drop_update(out)
            if not (out / FACTS).exists():
                _describe(out, drawn)
        _refuse_cut(folder, drawn.shards)
        return folder


def finish(out: Path, folder: Path) -> None:
    """Let a data set that is complete take its place, if it is not there already; ranks take turns."""
    if folder != out:
        with exclusive(out / LOCKS / "claim"):
            if folder.is_dir():
                take_place(out)


def drop_update(out: Path) -> None:
    """Remove what an update that was stopped left, if there is anything: nobody asks for it any more."""
    if (out / UPDATE).is_dir():
        shutil.rmtree(out / UPDATE)
        note(f"{out / UPDATE}: removed, an update that was stopped and is not asked for any more")


def refuse_another(out: Path, drawn: Drawn, update: bool = False) -> bool:
    """As `begin`, writing nothing; whether the folder has to be updated."""
    if (out / SWAP).is_dir():  # decided: what is there says nothing any more
        return False
    if not (out / FACTS).exists():
        if any(out.glob("*.tar")):
            raise UsageError(f"{out} holds tar files but no {FACTS}", "choose another --out")
        check_card(out)
        return False
    there = Drawn.of(out)
    if not there.by_content:
        raise UsageError(
            f"{out} was drawn by an earlier version of fglfast (format {there.format_version}), which named its images "
            "otherwise",
            "choose another --out; what is there can still be verified and trained on",
        )
    if there.same(drawn):
        return False
    known = drawn.as_far_as(there)
    fixed = differences(*(facts.model_dump(mode="json", include=set(FIXED)) for facts in (there, known)))
    if fixed:
        raise UsageError(
            f"{out} holds another data set: {fixed}", "choose another --out, or delete the folder to start anew"
        )
    if not update:
        missing = set(there.layout.remaining(out))
        differing = change(there, drawn, [number for number in range(there.shards) if number not in missing])
        raise UsageError(
            f"{out} holds another data set: {differences(there.chosen(), known.chosen())}; with --update {differing}",
            "give --update to make it this one in place, or choose another --out",
        )
    return True


def _staged(stage: Path, drawn: Drawn) -> Path:
    """The folder of an update, begun or gone on with; what is left of another one goes."""
    with suppress(BadInputError):
        if Drawn.of(stage).same(drawn):
            return stage
    if stage.exists():
        shutil.rmtree(stage)
    stage.mkdir()
    _describe(stage, drawn)
    return stage


def _refuse_cut(folder: Path, shards: int) -> None:
    """Refuse a folder in which a shard, which counts as done, is cut short; other damage is for `verify` to find."""
    for name in sorted(numbered(folder, shard_name, shards)[0]):
        if is_cut(folder / name):
            hint = "delete it and run this again, which draws what is missing; fglfast verify looks for other damage"
            raise BadInputError(f"{folder / name}: cut short", hint)


def _describe(folder: Path, drawn: Drawn) -> None:
    write_atomic(folder / CARD, card(drawn))
    write_description(folder, drawn)
