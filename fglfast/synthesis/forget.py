"""A client leaves a data set: its images, rows, digests and name go, and a receipt says so without them."""

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.base.files import write_atomic
from fglfast.base.untrusted import read_object
from fglfast.base.wording import differences, some
from fglfast.engine.build import Engine
from fglfast.payload import Payload
from fglfast.payload.merge import Merged, by_client, merge_payloads
from fglfast.shards.description import UPDATE
from fglfast.shards.locks import locked
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.draw import Drawer
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.folder import drop_update, enter
from fglfast.synthesis.judge import Judge, check_judge
from fglfast.synthesis.older import Change, change
from fglfast.synthesis.repair import refuse_older
from fglfast.synthesis.settings import plan_of
from fglfast.synthesis.synthesize import accounted, describer, make, sound_images

REMAINS = (
    "Models that were trained on the data set as it was keep what they learned from it; copies of the folder, of the "
    "client's payload and of backups lie elsewhere."
)
MOST = 1 << 16  # bytes of a receipt


def forget(
    client: str,
    payloads: Iterable[Payload],
    out: Path,
    open_engine: Callable[[], Engine],
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Make the data set that it would be without a client, as an update does: what others caused too stays.

    Killed at any moment, it goes on when it is called again. An update that was stopped goes too; of a client that is
    in that alone, nothing else is there.

    Args:
        client: who is forgotten.
        payloads: of those who stay; the client's own, if it is among them, is left out.
        out: folder of the data set.
        open_engine: called if images have to be drawn, because others' rows get the client's share of a class.
        judge: gives those their scores, if the others have some.

    Returns:
        The receipt, which is left in the folder too.

    Raises:
        BadInputError: nothing of the client is there, nobody else is, or the payloads are not those of the others.
        UsageError: the data set is of an earlier version, or another run is at work in it.
    """
    moved = enter(out)
    with locked(out):
        there = Drawn.of(out)
        refuse_older(there, out)
        if client not in there.clients:
            if moved and (receipt := _receipt_of(there, out)):
                return receipt
            if _was_joining(client, out):
                receipt = _receipt(there, there, change(there, there, range(there.shards)))
                _leave(receipt, there, out)
                return receipt
            raise BadInputError(f"{out}: no client {client!r}", f"clients: {some(there.clients)}")
        if there.clients == (client,):
            raise BadInputError(f"{out}: all of it comes from {client!r}", "delete the folder")
        merged = merge_payloads(payload for payload in payloads if payload.header.client != client)
        _check_others(client, there, merged)
        plan = plan_of(there.weights, there.image_size, merged, there)
        to_be = Drawn.to_be(plan, there.weights, there.image_size, there.model, merged, there)
        older = sound_images(out)
        changes = change(there, to_be, older.sound)
        receipt = _receipt(there, to_be, changes)
        if changes.new:
            check_judge(there.judge, judge)
        engine = open_engine() if changes.new else None
        drawer = Drawer(engine, plan, Conditioning(merged, engine), there.sampling) if engine else None
        make(
            accounted(to_be, merged, engine.model if engine else None, there),
            plan,
            describer(plan, engine.key if engine else ""),
            drawer,
            out,
            update=True,
            older=older,
            before_swap=partial(_leave, receipt, to_be),
            judge=judge,
        )
    return receipt


def _was_joining(client: str, out: Path) -> bool:
    """Whether a client is in an update that was stopped. It goes then, and where it does not say who is in it."""
    try:
        joining = client in Drawn.of(out / UPDATE).clients
    except BadInputError:
        drop_update(out)
        return False
    if joining:
        drop_update(out)
    return joining


def _check_others(client: str, there: Drawn, merged: Merged) -> None:
    """Refuse payloads that would change more than one client's part."""
    stay = by_client(there.clients, there.payloads)
    stay.pop(*by_client([client], [""]))
    if differing := differences(stay, by_client(merged.clients, merged.digests)):
        raise BadInputError(
            f"the payloads are not those of the clients that stay: {differing}",
            "give theirs as they were; fglfast synthesize --update takes other payloads too",
        )


def _receipt(there: Drawn, to_be: Drawn, changes: Change) -> dict[str, Any]:
    """What was removed, in numbers; the name of the client is for whoever keeps the receipt to add."""
    rows = {(there.class_names[row.label], row.row) for row in there.rows}
    left = {(to_be.class_names[row.label], row.row) for row in to_be.rows}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan_before": there.plan,
        "plan_after": to_be.plan,
        "clients_left": len(to_be.clients),
        "rows_removed": len(rows - left),
        "images_removed": changes.dropped,
        "images_kept": changes.kept,
        "images_drawn": changes.new,
        "classes_removed": len({row.label for row in there.rows}) - len({row.label for row in to_be.rows}),
        "remains": REMAINS,
    }


def _leave(receipt: dict[str, Any], to_be: Drawn, folder: Path) -> None:
    """Write the receipt, under a name that says who stays: two clients forgotten of one plan leave two."""
    name = f"forgotten-{receipt['plan_before'][:12]}-{_ending(to_be)}"
    write_atomic(folder / name, json.dumps(receipt, indent=2) + "\n")


def _receipt_of(there: Drawn, out: Path) -> dict[str, Any] | None:
    """The latest receipt of a forgetting that made this data set of these clients."""
    found = [read_object(path, MOST, "delete it") for path in out.glob(f"forgotten-*-{_ending(there)}")]
    fitting = [receipt for receipt in found if receipt.get("plan_after") == there.plan]
    return max(fitting, key=lambda receipt: str(receipt.get("time")), default=None)


def _ending(drawn: Drawn) -> str:
    """The end of a receipt's name: the plan, and a digest of the clients that stay with their payloads."""
    stay = json.dumps(by_client(drawn.clients, drawn.payloads), sort_keys=True)
    return f"{drawn.plan[:12]}-{hashlib.sha256(stay.encode()).hexdigest()[:12]}.json"
