"""What a method's rounds left, a row each, and the folder that keeps it: a killed run goes on from there."""

import json
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from fglfast.base.files import write_atomic
from fglfast.federation.records import RoundRow
from fglfast.federation.strategies import Aggregator
from fglfast.federation.wire import Weights
from fglfast.training.model import write_weights


def save_round(folder: Path, weights: Weights, aggregate: Aggregator, rows: list[RoundRow]) -> None:
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


def restore_round(folder: Path, aggregate: Aggregator) -> tuple[list[RoundRow], Weights] | None:
    """Rows until the last round that was saved, and its weights; the server's optimiser is put where it was."""
    if not (folder / "rounds.json").exists():
        return None
    rows = [RoundRow.model_validate(row) for row in json.loads((folder / "rounds.json").read_text(encoding="utf-8"))]
    number = f"{rows[-1].round:04d}"
    if (moments := folder / f"server-{number}.safetensors").exists():
        aggregate.put(load_file(moments))
    return rows, load_file(folder / f"weights-{number}.safetensors")


def together(runs: list[list[RoundRow]]) -> tuple[RoundRow, ...]:
    """The rows of several models side by side as one: means over them, sums of bytes and time."""
    return tuple(runs[0]) if len(runs) == 1 else tuple(_together(rows) for rows in zip(*runs, strict=True))


def _together(rows: tuple[RoundRow, ...]) -> RoundRow:
    worst = [row.worst_client for row in rows if row.worst_client is not None]
    return RoundRow(
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
