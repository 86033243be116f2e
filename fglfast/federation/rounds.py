"""Communication rounds, each one judged and saved: a killed run goes on after the last."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import RecordDict
from transformers import PreTrainedModel

from fglfast.base.console import Progress, note
from fglfast.federation import guard, wire
from fglfast.federation.experiment import Experiment
from fglfast.federation.grid import Answers, CountedGrid, Meter
from fglfast.federation.history import Adapted, Row, restore_round, save_round
from fglfast.federation.members import Member, Members, median
from fglfast.federation.moments import empty
from fglfast.federation.plan import Plan
from fglfast.federation.strategies import Aggregator
from fglfast.federation.wire import Weights
from fglfast.training.batches import generator
from fglfast.training.model import body_of, head_of
from fglfast.training.prototypes import Prototypes
from fglfast.training.settings import AdaptSettings

T = TypeVar("T")


class Federation:
    """A grid, its members, an experiment and one seed of it.

    Args:
        grid: whose traffic is weighed.
        members: who is in.
        experiment: what is run.
        seed: of weights and draws.
        class_names: the classes, in the order of the model's labels.
        model: the global model's architecture; its weights are used as a place to load others into.
        test: accuracy of a model on the real test images.
        check: accuracy of a model on images of the server's own, by which averages are kept; None where it has none.
    """

    def __init__(
        self,
        grid: CountedGrid,
        members: tuple[Member, ...],
        experiment: Experiment,
        seed: int,
        class_names: tuple[str, ...],
        model: PreTrainedModel,
        test: Callable[[PreTrainedModel], float],
        check: Callable[[PreTrainedModel], float] | None = None,
    ) -> None:
        self.grid, self.experiment, self.seed, self.class_names = grid, experiment, seed, class_names
        self.model, self.test, self.check = model, test, check
        self.guarded = experiment.server.guard is not False
        self.parameters, self.body = [name for name, _ in model.named_parameters()], body_of(model)
        self._all = members
        self.members = self._without(())

    def run(self, plan: Plan, weights: Weights, folder: Path, before: Row | None = None) -> tuple[Weights, list[Row]]:
        """All rounds of a method, from some weights; rows begin with `before`, or with what clients say of those."""
        aggregate = Aggregator(self.experiment.server, self.parameters)
        if before is not None and self.check:  # who judged it may have had other images
            before = before.model_copy(update={"checked": self.check(self._with(weights))})
        restored = restore_round(folder, aggregate)
        rows, weights = restored or ([before or self.judge(weights, 0, milestone=False)], weights)
        self.members = self._without(rows[-1].left_out)
        with Progress(plan.name, total=plan.rounds, start=len(rows) - 1, unit="round") as progress:
            for number in range(len(rows), plan.rounds + 1):
                weights, row = self._round(plan, aggregate, weights, rows[-1], number)
                rows.append(row)
                save_round(folder, weights, aggregate, rows)
                known = {"accuracy": f"{row.accuracy:.3f}"} if row.accuracy is not None else {}
                progress.advance(1, **known)
        return weights, rows

    def judge(self, weights: Weights, number: int, milestone: bool) -> Row:
        """Weights on every member's held-out images, and on the test images at a milestone."""
        said = self._judged(weights, number)
        return Row(
            round=number,
            accuracy=self.members.weighted(said),
            median=median(said),
            worst_client=min(said.values(), default=None),
            by_client=tuple(said.get(member.name) for member in self._all),
            checked=self.check(self._with(weights)) if self.check else median(said),
            test_accuracy=self.test(self._with(weights)) if milestone else None,
            clients=len(self.members.inside),
            left_out=self._outside(),
        )

    def moments(self, weights: Weights) -> list[Weights]:
        """What every member says of the features that a network makes of its images.

        Raises:
            IncompleteError: too few did.
        """
        form = partial(wire.weights_of, sent=empty(head_of(self.model)))
        answers = self._ask(wire.MOMENTS, weights, form, {})
        note(answers.line("moments"))
        self.grid.enough(len(answers.good), "sent sound moments")
        return list(answers.good.values())

    def updates(
        self,
        what: str,
        weights: Weights,
        number: int,
        rounds: int = 1,
        proximal_mu: float = 0.0,
        nodes: Mapping[int, str] | None = None,
    ) -> dict[str, Weights]:
        """What members make of some weights by training on their own images, by name.

        Args:
            what: this is, for the operator.
            weights: that they begin with.
            number: of the round, from 1.
            rounds: whose epochs they train for before they answer.
            proximal_mu: FedProx's; 0 for FedAvg.
            nodes: who is asked, by node; all by default.

        Raises:
            IncompleteError: too few sent sound ones.
        """
        asked = {"server-round": number, "rounds": rounds, "proximal-mu": proximal_mu}
        answers = self._ask(wire.TRAIN, weights, partial(wire.weights_of, sent=weights), asked, nodes)
        updates = self._sound(answers, weights)
        note(answers.line(what))
        self.grid.enough(len(updates), "sent sound weights")
        return updates

    def deliver(self, weights: Weights, left_out: tuple[str, ...] = (), prototypes: Prototypes | None = None) -> int:
        """Send the final model to every member but those left out; returns how many kept it."""
        self.members = self._without(left_out)
        answers = self._ask(wire.DELIVER, weights, wire.kept_of, {}, prototypes=prototypes)
        note(answers.line("final model"))
        return sum(answers.good.values())

    def adapt(self, weights: Weights, prototypes: Prototypes, how: AdaptSettings, left_out: tuple[str, ...]) -> Adapted:
        """What every member but those left out says of the final model as it is, and adapted to itself."""
        self.members, asked = self._without(left_out), {"adapt": how.model_dump_json()}
        answers = self._ask(wire.ADAPT, weights, wire.adapted_of, asked, prototypes=prototypes)
        note(answers.line("adapted"))
        return Adapted(by_client=tuple(answers.good.get(member.node) for member in self._all))

    def _round(
        self, plan: Plan, aggregate: Aggregator, weights: Weights, last: Row, number: int
    ) -> tuple[Weights, Row]:
        meter = Meter(self.grid)
        updates: dict[str, Weights] = {}
        if plan.asks:
            what, nodes = f"{plan.name}, round {number}", self._drawn(number)
            updates = self.updates(what, weights, number, proximal_mu=plan.proximal_mu, nodes=nodes)
        asked, answered = meter.read(), time.monotonic()
        turned: set[str] = set()
        if self.guarded and updates:
            updates, turned = self._guarded(weights, updates, last, number)
        moments = aggregate.moments()
        averaged = self._averaged(plan, aggregate, weights, updates, number)
        server_seconds = time.monotonic() - answered
        # Judging is for the curve, not for the method: neither its bytes nor its time count.
        milestone = number == plan.rounds or number in self.experiment.rounds.milestones
        row = self._judge_round(averaged, number, milestone, last)
        if row is None:
            aggregate.put(moments)
            averaged, row = self._mended(plan, aggregate, weights, updates, last, number, milestone)
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
        self, weights: Weights, updates: Mapping[str, Weights], last: Row, number: int
    ) -> tuple[dict[str, Weights], set[str]]:
        """The updates that may be averaged, and whose last step led away from all others'."""
        away = guard.away(weights, updates, self.body)
        again = {name: "twice its step led away from every other client's" for name in away if name in last.away}
        for name in away:
            if name not in again:  # once may be chance
                note(f"round {number} is without {name}: its step led away from every other client's")
        self._leave_out(again, number)
        turned = {*away, *(name for name in last.away if name not in updates)}
        kept = {name: own for name, own in updates.items() if name not in away}
        return kept if self._bar(last).known else guard.bounded(weights, kept, self._steps(weights, kept)), turned

    def _averaged(
        self, plan: Plan, aggregate: Aggregator, weights: Weights, updates: Mapping[str, Weights], number: int
    ) -> Weights:
        averaged = weights
        if updates:
            averaged = aggregate(number, weights, [(own, self.members.images[name]) for name, own in updates.items()])
        return plan.fine_tune(averaged, number) if plan.fine_tune else averaged

    def _judge_round(self, averaged: Weights, number: int, milestone: bool, last: Row) -> Row | None:
        """The row of an average that is kept; None for one that is not."""
        if not wire.is_finite(averaged):
            return None
        row = self.judge(averaged, number, milestone)
        return None if self._bar(last).is_bad(row.checked) else row

    def _mended(
        self,
        plan: Plan,
        aggregate: Aggregator,
        weights: Weights,
        updates: Mapping[str, Weights],
        last: Row,
        number: int,
        milestone: bool,
    ) -> tuple[Weights, Row]:
        """What follows a bad round: the average without those who caused it, or the last good weights."""
        images, verdict = self.members.images, guard.Verdict(())
        if updates:
            verdict = guard.find_cause(
                self._steps(weights, updates),
                lambda names: aggregate.plain(weights, [(updates[name], images[name]) for name in names]),
                lambda found: self._checked(found, number),
                self._bar(last),
            )
        self._leave_out(verdict.blamed, number)
        if verdict.names:
            if verdict.doubted:
                note(f"round {number} is good without {', '.join(verdict.doubted)}: kept without it")
            kept = {name: updates[name] for name in verdict.names}
            moments = aggregate.moments()
            averaged = self._averaged(plan, aggregate, weights, kept, number)
            if (row := self._judge_round(averaged, number, milestone, last)) is not None:
                return averaged, row
            aggregate.put(moments)
        note(f"round {number} lost what was learned, and no client stands out: the last good weights stay")
        return weights, self.judge(weights, number, milestone).model_copy(update={"kept": False})

    def _sound(self, answers: Answers[Weights], weights: Weights) -> dict[str, Weights]:
        """The weights of those who answered, by name, without those that nobody need average to know."""
        updates = {answers.names[node]: own for node, own in answers.good.items()}
        several = self.guarded and len(updates) > 1
        ruinous = guard.absurd(guard.steps(weights, updates, self.parameters)) if several else {}
        for node, name in answers.names.items():
            if name in ruinous:
                answers.refused[node] = ruinous[name]
                del answers.good[node]
        return {name: updates[name] for name in sorted(updates) if name not in ruinous}

    def _leave_out(self, blamed: Mapping[str, str], number: int) -> None:
        """From a round on, each with the reason."""
        for name, why in blamed.items():
            note(f"{name} is left out from round {number} on: {why}")
        self.members = self._without((*self._outside(), *blamed))

    def _outside(self) -> tuple[str, ...]:
        return tuple(member.name for member in self._all if member not in self.members.inside)

    def _drawn(self, number: int) -> dict[int, str]:
        """Which members are asked in a round."""
        nodes, share = self.members.nodes, self.experiment.rounds.participation
        count = min(len(nodes), max(self.grid.least, round(share * len(nodes))))
        chosen = generator(self.seed, 2, number).permutation(len(nodes))[:count]
        return {node: nodes[node] for place, node in enumerate(nodes) if place in set(chosen.tolist())}

    def _bar(self, last: Row) -> guard.Bar:
        return guard.Bar(last.checked if self.guarded else None, 1 / len(self.class_names))

    def _steps(self, weights: Weights, updates: Mapping[str, Weights]) -> dict[str, float]:
        return guard.steps(weights, updates, self.parameters, self.members.images)

    def _judged(self, weights: Weights, number: int) -> dict[str, float]:
        answers = self._ask(wire.EVALUATE, weights, wire.share_of, {"server-round": number})
        if not answers.complete:
            note(answers.line(f"judging round {number}"))
        return {answers.names[node]: share for node, share in answers.good.items() if share is not None}

    def _checked(self, weights: Weights, number: int) -> float | None:
        return self.check(self._with(weights)) if self.check else median(self._judged(weights, number))

    def _ask(
        self,
        message_type: str,
        weights: Weights,
        form: Callable[[RecordDict], T],
        asked: Mapping[str, int | float | str],
        nodes: Mapping[int, str] | None = None,
        prototypes: Prototypes | None = None,
    ) -> Answers[T]:
        beside = {wire.PROTOTYPES: wire.weights_record(prototypes.tensors())} if prototypes else {}
        common: dict[str, Any] = {
            "model": self.model.config.to_json_string(use_diff=False),
            "class-names": list(self.class_names),
            "image-size": self.experiment.image_size,
            "validation-share": self.experiment.validation_share,
            "local": self.experiment.local.model_dump_json(),
            "seed": self.seed,
        }
        records = {wire.ARRAYS: wire.weights_record(weights), **beside, **wire.config(**common, **asked)}
        return self.grid.ask(message_type, records, form, self.members.nodes if nodes is None else nodes)

    def _without(self, left_out: tuple[str, ...]) -> Members:
        return Members(self._all, self.experiment.trusted_counts, left_out)

    def _with(self, weights: Weights) -> PreTrainedModel:
        self.model.load_state_dict(weights)
        return self.model
