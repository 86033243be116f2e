"""Communication rounds, each one judged and saved: a killed run goes on after the last."""

import time
from collections.abc import Mapping
from pathlib import Path

from fglfast.base.console import Progress, note
from fglfast.federation import guard, wire
from fglfast.federation.federation import Federation
from fglfast.federation.grid import Meter
from fglfast.federation.history import restore_round, save_round
from fglfast.federation.method_plan import MethodPlan
from fglfast.federation.records import RoundRow
from fglfast.federation.strategies import Aggregator
from fglfast.federation.wire import Weights


class PlannedRounds:
    """The rounds of a plan with the members of a federation; whom a round leaves out stays out."""

    def __init__(self, federation: Federation, plan: MethodPlan) -> None:
        self.federation, self.plan = federation, plan
        self.aggregate = Aggregator(federation.experiment.server, federation.parameters)

    def run(self, weights: Weights, folder: Path, before: RoundRow | None = None) -> tuple[Weights, list[RoundRow]]:
        """All rounds, from some weights; rows begin with `before`, or with what clients say of those."""
        federation, plan = self.federation, self.plan
        if before is not None and federation.check:  # who judged it may have had other images
            before = before.model_copy(update={"checked": federation.checked(weights, 0)})
        restored = restore_round(folder, self.aggregate)
        rows, weights = restored or ([before or federation.judge(weights, 0, milestone=False)], weights)
        federation.only_without(rows[-1].left_out)
        with Progress(plan.name, total=plan.rounds, start=len(rows) - 1, unit="round") as progress:
            for number in range(len(rows), plan.rounds + 1):
                weights, row = self._round(weights, rows[-1], number)
                rows.append(row)
                save_round(folder, weights, self.aggregate, rows)
                known = {"accuracy": f"{row.accuracy:.3f}"} if row.accuracy is not None else {}
                progress.advance(1, **known)
        return weights, rows

    def _round(self, weights: Weights, last: RoundRow, number: int) -> tuple[Weights, RoundRow]:
        federation, plan = self.federation, self.plan
        meter = Meter(federation.grid)
        updates: dict[str, Weights] = {}
        if plan.asks:
            what, nodes = f"{plan.name}, round {number}", federation.drawn(number)
            updates = federation.updates(what, weights, number, proximal_mu=plan.proximal_mu, nodes=nodes)
        asked, answered = meter.read(), time.monotonic()
        turned: set[str] = set()
        if federation.guarded and updates:
            updates, turned = self._guarded(weights, updates, last, number)
        moments = self.aggregate.moments()
        averaged = self._averaged(weights, updates, number)
        server_seconds = time.monotonic() - answered
        # Judging is for the curve, not for the method: neither its bytes nor its time count.
        row = self._judged(averaged, last, number)
        if row is None:
            self.aggregate.put(moments)
            averaged, row = self._mended(weights, updates, last, number)
        spent = {
            "bytes_down": last.bytes_down + asked["bytes_down"],
            "bytes_up": last.bytes_up + asked["bytes_up"],
            "client_seconds": round(last.client_seconds + asked["client_seconds"], 3),
            "server_seconds": round(last.server_seconds + server_seconds, 3),
            "clients": len(updates),
            "away": tuple(sorted(turned)),
        }
        return averaged, row.model_copy(update=spent)

    def _guarded(
        self, weights: Weights, updates: Mapping[str, Weights], last: RoundRow, number: int
    ) -> tuple[dict[str, Weights], set[str]]:
        """The updates that may be averaged, and whose last step led away from all others'."""
        away = guard.away(weights, updates, self.federation.body)
        again = {name: "twice its step led away from every other client's" for name in away if name in last.away}
        for name in away:
            if name not in again:  # once may be chance
                note(f"round {number} is without {name}: its step led away from every other client's")
        self.federation.leave_out(again, number)
        turned = {*away, *(name for name in last.away if name not in updates)}
        kept = {name: own for name, own in updates.items() if name not in away}
        return kept if self._bar(last).known else guard.bounded(weights, kept, self._steps(weights, kept)), turned

    def _averaged(self, weights: Weights, updates: Mapping[str, Weights], number: int) -> Weights:
        averaged, images = weights, self.federation.members.images
        if updates:
            averaged = self.aggregate(number, weights, [(own, images[name]) for name, own in updates.items()])
        return self.plan.fine_tune(averaged, number) if self.plan.fine_tune else averaged

    def _judged(self, averaged: Weights, last: RoundRow, number: int) -> RoundRow | None:
        """The row of an average that is kept; None for one that is not."""
        if not wire.is_finite(averaged):
            return None
        row = self.federation.judge(averaged, number, self._milestone(number))
        return None if self._bar(last).is_bad(row.checked) else row

    def _mended(
        self, weights: Weights, updates: Mapping[str, Weights], last: RoundRow, number: int
    ) -> tuple[Weights, RoundRow]:
        """What follows a bad round: the average without those who caused it, or the last good weights."""
        images, verdict = self.federation.members.images, guard.Verdict(())
        if updates:
            verdict = guard.find_cause(
                self._steps(weights, updates),
                lambda names: self.aggregate.plain(weights, [(updates[name], images[name]) for name in names]),
                lambda found: self.federation.checked(found, number),
                self._bar(last),
            )
        self.federation.leave_out(verdict.blamed, number)
        if verdict.names:
            if verdict.doubted:
                note(f"round {number} is good without {', '.join(verdict.doubted)}: kept without it")
            kept = {name: updates[name] for name in verdict.names}
            moments = self.aggregate.moments()
            averaged = self._averaged(weights, kept, number)
            if (row := self._judged(averaged, last, number)) is not None:
                return averaged, row
            self.aggregate.put(moments)
        rest = {name: own for name, own in updates.items() if name not in verdict.blamed}
        return self._unexplained(weights, rest, last, number)

    def _unexplained(
        self, weights: Weights, updates: Mapping[str, Weights], last: RoundRow, number: int
    ) -> tuple[Weights, RoundRow]:
        """The last good weights, once; a second bad round in a row counts: then it is all clients that differ."""
        said, milestone = f"round {number} lost what was learned, and no client stands out", self._milestone(number)
        if not last.kept and wire.is_finite(averaged := self._averaged(weights, updates, number)):
            note(f"{said}: it counts, as the round before did not")
            return averaged, self.federation.judge(averaged, number, milestone)
        note(f"{said}: the last good weights stay")
        return weights, self.federation.judge(weights, number, milestone).model_copy(update={"kept": False})

    def _milestone(self, number: int) -> bool:
        return number == self.plan.rounds or number in self.federation.experiment.rounds.milestones

    def _bar(self, last: RoundRow) -> guard.Bar:
        return guard.Bar(last.checked if self.federation.guarded else None, 1 / len(self.federation.class_names))

    def _steps(self, weights: Weights, updates: Mapping[str, Weights]) -> dict[str, float]:
        return guard.steps(weights, updates, self.federation.parameters, self.federation.members.images)
