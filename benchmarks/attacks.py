"""Hostile clients in a federation of real training: what each attack costs, and whether it is named."""

import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.hostile import ATTACKS, Attack, HostileApp
from benchmarks.results_file import save_result
from fglfast.base import console
from fglfast.base.files import write_atomic
from fglfast.federation.client_app import app
from fglfast.federation.clients import simulated
from fglfast.federation.experiment import Aggregation, Experiment, find_experiment
from fglfast.federation.grid import CountedGrid
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.methods import Contest

ROBUST = ("fedavg", "trimmed-mean", "median", "krum", "multi-krum")  # strategies that meet attacks on weights
ABSENT = "absent"  # instead of an attack: that client never comes
MEETING = ("the step scaled 30 times, reversed", "a step reversed", "a billion images claimed")


def main(
    preset: Annotated[str, typer.Argument(help="An experiment: a file, or a shipped one.")] = "fashion-mild",
    rounds: Annotated[int, typer.Option(help="Of FedAvg.")] = 10,
    seed: Annotated[int, typer.Option(help="Of partition, weights and draws.")] = 0,
    work: Annotated[Path, typer.Option(help="Folder of the runs; a second call redoes nothing.")] = Path(
        "runs/attacks"
    ),
    engines: Path = Path("engines/build"),
    name: Annotated[str, typer.Option(help="Of the result, in benchmarks/results.")] = "attacks",
) -> None:
    """Run FedAvg with the last client hostile in each way; save outcomes, accuracies and who was named.

    Robust strategies meet the attacks whose form shows nothing; that table is `NAME-strategies.json`.
    """
    asked = find_experiment(preset)
    milestones = asked.rounds.model_copy(update={"fedavg": rounds, "milestones": ()})
    asked = asked.model_copy(update={"rounds": milestones, "seeds": (seed,)})
    work.mkdir(parents=True, exist_ok=True)
    file = work / "experiment.toml"
    file.write_text(asked.to_toml(), encoding="utf-8")
    hostile = len(simulated(str(file), seed)) - 1
    honest = _run(asked, None, hostile, seed, file, work / "honest", engines)
    absent = _run(asked, ABSENT, hostile, seed, file, work / ABSENT, engines)
    rows = [_row(attack, asked, hostile, seed, file, work, engines, absent["accuracy"]) for attack in ATTACKS]
    facts = {"experiment": asked.model_dump(mode="json"), "honest": honest, "absent": absent}
    save_result(name, facts | {"attacks": rows})
    met = _met(asked, hostile, seed, file, work, engines)
    save_result(f"{name}-strategies", facts | {"strategies": met})


def _row(
    attack: Attack,
    asked: Experiment,
    hostile: int,
    seed: int,
    file: Path,
    work: Path,
    engines: Path,
    absent: float,
) -> dict[str, Any]:
    found = _run(asked, attack, hostile, seed, file, work / attack.name.replace(" ", "-"), engines)
    return {"attack": attack.name, "expected": attack.expected, **found, "lost": round(absent - found["accuracy"], 4)}


def _met(asked: Experiment, hostile: int, seed: int, file: Path, work: Path, engines: Path) -> list[dict[str, Any]]:
    """Each strategy without an attack, and under those that no form of a reply shows."""
    attacks: Sequence[Attack | None] = (None, *(attack for attack in ATTACKS if attack.name in MEETING))
    rows = []
    for strategy in ROBUST:
        under = asked.model_copy(update={"server": Aggregation(strategy=strategy)})  # type: ignore[arg-type]
        for attack in attacks:
            folder = work / strategy / (attack.name.replace(" ", "-") if attack else "honest")
            found = _run(under, attack, hostile, seed, file, folder, engines)
            rows.append({"strategy": strategy, "attack": attack.name if attack else "none", **found})
    return rows


def _run(
    asked: Experiment, attack: Attack | str | None, hostile: int, seed: int, file: Path, folder: Path, engines: Path
) -> dict[str, Any]:
    """One run of FedAvg: its accuracy, and which clients the operator read something of. `ABSENT` never comes."""
    kept = folder / "found.json"
    if kept.exists():  # what the operator read is not said again
        return json.loads(kept.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    shutil.rmtree(folder, ignore_errors=True)
    told: dict[str, str | int | float | bool] = {"experiment": str(file), "seed": seed}
    playing = HostileApp(app, attack, hostile) if isinstance(attack, Attack) else app
    present = range(hostile + (attack != ABSENT))
    grid = CountedGrid(LoopbackGrid(playing, present, told), asked.timeout, asked.min_clients)  # type: ignore[arg-type]
    said = StringIO()
    with redirect_stderr(said):
        console.stderr.file = said
        try:
            result = Contest(asked, seed, folder, engines, lambda _: [grid]).run("fedavg")
        finally:
            console.stderr.file = None  # type: ignore[assignment]
    names = [client.name for client in simulated(str(file), seed)]
    blamed = [
        who
        for number, who in enumerate(names)
        if any(f"{word} {who}" in said.getvalue() for word in ("left out", "late", "dead"))
        or f"{who} is left out" in said.getvalue()
        or f"left out node {number + 2}:" in said.getvalue()
    ]
    found = {
        "accuracy": result.test_accuracy,
        "named": names[hostile] in blamed,
        "honest_blamed": [who for who in blamed if who != names[hostile]],
        "rounds": result.rows[-1].round,
    }
    write_atomic(kept, json.dumps(found) + "\n")
    return found


if __name__ == "__main__":
    typer.run(main)
