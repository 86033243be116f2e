"""What a method's rounds left, a row each, and the folder that keeps it: a killed run goes on from there."""

import json
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from fglfast.base.config import Settings
from fglfast.base.files import write_atomic
from fglfast.federation.strategies import Aggregator
from fglfast.federation.wire import Weights
from fglfast.training.model import write_weights


class Row(Settings):
    """The state of things after a round; bytes and seconds are sums over all rounds so far.

    Attributes:
        round: 0 is before the first.
        accuracy: mean over the clients of what each says of its held-out images, weighted by the images that its
            payload claimed; None if none judged.
        median: of the same, each client counting once: what no single client can set.
        worst_client: the lowest of the same.
        by_client: all of them, in order of name; None for a client with too few images to hold one out, or that is
            silent.
        checked: accuracy by which the weights were kept: on the server's own images if it has some, else the median.
        test_accuracy: on the real test images, at milestones only.
        bytes_down: to all clients.
        bytes_up: from all clients.
        server_seconds: synthesis, training and averaging.
        client_seconds: waiting for clients.
        clients: how many trained; in round 0, how many there are.
        kept: whether the round's average was kept; if not, the weights are those of the row before.
        left_out: names of clients that were found to have ruined a round, this one or an earlier one.
        away: names of clients whose last step led away from all others'; a second one in a row, and they are left out.
    """

    round: int
    accuracy: float | None
    median: float | None = None
    worst_client: float | None
    by_client: tuple[float | None, ...]
    checked: float | None = None
    test_accuracy: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    server_seconds: float = 0.0
    client_seconds: float = 0.0
    clients: int = 0
    kept: bool = True
    left_out: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


class Adapted(Settings):
    """What clients say of a final model on their held-out images, before and after each has adapted it to itself.

    Attributes:
        by_client: both shares, in order of name; None for a client that holds out none, or is silent.
    """

    by_client: tuple[tuple[float, float] | None, ...]

    def shares(self, after: bool) -> list[float]:
        """Of all clients that said both."""
        return [shares[after] for shares in self.by_client if shares]


def save_round(folder: Path, weights: Weights, aggregate: Aggregator, rows: list[Row]) -> None:
    """Keep the rows so far, and what the next round begins with."""
    folder.mkdir(parents=True, exist_ok=True)
    number = f"{rows[-1].round:04d}"
    write_weights(weights, folder / f"weights-{number}.safetensors")
    if moments := aggregate.moments():
        write_weights(moments, folder / f"server-{number}.safetensors")
    write_atomic(folder / "rounds.json", json.dumps([row.model_dump(mode="json") for row in rows], indent=1) + "\n")
    for old in (*folder.glob("weights-*.safetensors"), *folder.glob("server-*.safetensors")):
        if not old.stem.endswith(number):
            old.unlink()


def restore_round(folder: Path, aggregate: Aggregator) -> tuple[list[Row], Weights] | None:
    """Rows until the last round that was saved, and its weights; the server's optimiser is put where it was."""
    if not (folder / "rounds.json").exists():
        return None
    rows = [Row.model_validate(row) for row in json.loads((folder / "rounds.json").read_text(encoding="utf-8"))]
    number = f"{rows[-1].round:04d}"
    if (moments := folder / f"server-{number}.safetensors").exists():
        aggregate.put(load_file(moments))
    return rows, load_file(folder / f"weights-{number}.safetensors")


def together(runs: list[list[Row]]) -> tuple[Row, ...]:
    """The rows of several models side by side as one: means over them, sums of bytes and time."""
    return tuple(runs[0]) if len(runs) == 1 else tuple(_together(rows) for rows in zip(*runs, strict=True))


def _together(rows: tuple[Row, ...]) -> Row:
    worst = [row.worst_client for row in rows if row.worst_client is not None]
    return Row(
        round=rows[0].round,
        accuracy=_mean([row.accuracy for row in rows]),
        median=_mean([row.median for row in rows]),
        worst_client=min(worst, default=None),
        by_client=tuple(share for row in rows for share in row.by_client),
        test_accuracy=_mean([row.test_accuracy for row in rows]),
        bytes_down=sum(row.bytes_down for row in rows),
        bytes_up=sum(row.bytes_up for row in rows),
        server_seconds=round(sum(row.server_seconds for row in rows), 3),
        client_seconds=round(sum(row.client_seconds for row in rows), 3),
        clients=len(rows),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
