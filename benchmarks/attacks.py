"""Hostile clients in a federation of real training: what each attack costs, and whether it is named."""

import shutil
import statistics
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.hostile import ATTACKS, Attack, HostileApp
from benchmarks.results_file import once, save_result
from fglfast.base import console
from fglfast.federation.aggregation import Aggregation
from fglfast.federation.client_app import app
from fglfast.federation.clients import simulated
from fglfast.federation.experiment import Experiment, find_experiment
from fglfast.federation.grid import CountedGrid
from fglfast.federation.loopback import LoopbackGrid
from fglfast.federation.methods import SeededExperiment
from fglfast.images.dataset import read_dataset

ROBUST = ("fedavg", "trimmed-mean", "median", "krum", "multi-krum")  # strategies that meet attacks on weights
ABSENT = "absent"  # instead of an attack: that client never comes
Found = dict[str, Any]  # of one run
MEETING = ("the step scaled 30 times, reversed", "a step reversed", "a billion images claimed")


def main(
    preset: Annotated[str, typer.Argument(help="An experiment: a file, or a shipped one.")] = "fashion-mild",
    rounds: Annotated[int, typer.Option(help="Of FedAvg.")] = 10,
    seeds: Annotated[int, typer.Option(help="Each has a partition, weights and draws of its own.")] = 3,
    work: Annotated[Path, typer.Option(help="Folder of the runs; a second call redoes nothing.")] = Path(
        "runs/attacks"
    ),
    engines: Path = Path("engines/build"),
    name: Annotated[str, typer.Option(help="Of the result, in benchmarks/results.")] = "attacks",
) -> None:
    """Run FedAvg with the last client hostile in each way; save outcomes, accuracies and who was named.

    What an attack costs is what the run without that client reaches with the same seed, less what it does with it.
    Robust strategies meet the attacks whose form shows nothing; that table is `NAME-strategies.json`.
    """
    asked = find_experiment(preset)
    milestones = asked.rounds.model_copy(update={"fedavg": rounds, "milestones": ()})
    asked = asked.model_copy(update={"rounds": milestones, "seeds": tuple(range(seeds))})
    arena = Arena(asked, work, engines)
    honest, absent = arena.run(None), arena.run(ABSENT)
    rows = [_row(attack, arena.run(attack), absent) for attack in ATTACKS]
    facts = {"experiment": asked.model_dump(mode="json"), "honest": _mean(honest), "absent": _mean(absent)}
    save_result(name, facts | {"attacks": rows})
    attacks: Sequence[Attack | None] = (None, *(attack for attack in ATTACKS if attack.name in MEETING))
    met = []
    for strategy in ROBUST:
        under = asked.model_copy(update={"server": Aggregation(strategy=strategy)})
        arena = Arena(under, work / strategy, engines)
        met += [{"strategy": strategy, "attack": _called(attack), **_mean(arena.run(attack))} for attack in attacks]
    save_result(f"{name}-strategies", facts | {"strategies": met})


def _row(attack: Attack, found: list[Found], absent: list[Found]) -> dict[str, Any]:
    lost = [without["accuracy"] - own["accuracy"] for own, without in zip(found, absent, strict=True)]
    return {
        "attack": attack.name,
        "expected": attack.expected,
        "lost": round(statistics.mean(lost), 4),
        "lost_by_seed": [round(each, 4) for each in lost],
        **_mean(found),
    }


def _mean(found: list[Found]) -> dict[str, Any]:
    """What the runs of all seeds come to; a client is named if it is in each of them."""
    return {
        "accuracy": round(statistics.mean(each["accuracy"] for each in found), 4),
        "named": all(each["named"] for each in found),
        "honest_blamed": sorted({who for each in found for who in each["honest_blamed"]}),
        "rounds": min(each["rounds"] for each in found),
    }


def _called(attack: Attack | str | None) -> str:
    return attack.name if isinstance(attack, Attack) else attack or "none"


class Arena:
    """An experiment that is run with and without a hostile client, once for each seed."""

    def __init__(self, asked: Experiment, work: Path, engines: Path) -> None:
        self.asked, self.work, self.engines, self.file = asked, work, engines, work / "experiment.toml"
        work.mkdir(parents=True, exist_ok=True)
        self.file.write_text(asked.to_toml(), encoding="utf-8")

    def run(self, attack: Attack | str | None) -> list[Found]:
        """Each seed's accuracy, and whom its operator read something of; the client that is `ABSENT` never comes."""
        folders = {seed: self.work / str(seed) / _called(attack).replace(" ", "-") for seed in self.asked.seeds}
        return [once(own / "found.json", partial(self._run, attack, seed, own)) for seed, own in folders.items()]

    def _run(self, attack: Attack | str | None, seed: int, folder: Path) -> Found:
        shutil.rmtree(folder, ignore_errors=True)
        names = [client.name for client in simulated(str(self.file), seed)]
        told: dict[str, str | int | float | bool] = {"experiment": str(self.file), "seed": seed}
        hostile = len(names) - 1
        playing = HostileApp(app, attack, hostile) if isinstance(attack, Attack) else app
        present = range(hostile + (attack != ABSENT))
        grid = CountedGrid(LoopbackGrid(playing, present, told), self.asked.timeout, self.asked.min_clients)  # type: ignore[arg-type]
        said = StringIO()
        with redirect_stderr(said):
            console.stderr.file = said
            try:
                test = read_dataset(self.asked.test)
                result = SeededExperiment(self.asked, test, seed, folder, self.engines, lambda _: [grid]).run("fedavg")
            finally:
                console.stderr.file = None  # type: ignore[assignment]
        blamed = _blamed(names, said.getvalue())
        return {
            "accuracy": result.test_accuracy,
            "named": names[hostile] in blamed or f"{names[hostile]!r} claims" in said.getvalue(),
            "honest_blamed": [who for who in blamed if who != names[hostile]],
            "rounds": result.rows[-1].round,
        }


def _blamed(names: Sequence[str], said: str) -> list[str]:
    """Clients that the operator reads to have failed or to be left out.

    One that claims more images than all others is asked about, which is no blame: an honest one may hold so many.
    """
    return [
        who
        for number, who in enumerate(names)
        if any(f"{word} {who}" in said for word in ("left out", "late", "dead"))
        or f"{who} is left out" in said
        or f"left out node {number + 2}:" in said
    ]


if __name__ == "__main__":
    typer.run(main)
