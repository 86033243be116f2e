"""The clients of a federation as one thing: ask all for something, and bring every answer into exact form."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from flwr.app import RecordDict
from transformers import PreTrainedModel

from fglfast.base.console import note
from fglfast.federation import guard, wire
from fglfast.federation.experiment import Experiment
from fglfast.federation.grid import Answers, CountedGrid
from fglfast.federation.members import Member, Members, agreed, median
from fglfast.federation.moments import empty, of_images, outsized, sound_moments
from fglfast.federation.records import Adapted, RoundRow
from fglfast.federation.wire import Weights
from fglfast.training.batches import generator
from fglfast.training.model import body_of, head_of
from fglfast.training.predict import predict
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
        self.members = Members(members, experiment.trusted_counts)

    def judge(self, weights: Weights, number: int, milestone: bool) -> RoundRow:
        """Weights on every member's held-out images, and on the test images at a milestone."""
        said = self._judged(weights, number)
        return RoundRow(
            round=number,
            accuracy=self.members.weighted(said),
            median=median(said),
            worst_client=min(said.values(), default=None),
            by_client=tuple(said.get(member.name) for member in self.members.all),
            checked=self.check(self._with(weights)) if self.check else agreed(said),
            test_accuracy=self.test(self._with(weights)) if milestone else None,
            clients=len(self.members.inside),
            left_out=self.outside(),
        )

    def checked(self, weights: Weights, number: int) -> float | None:
        """Weights on the server's own images, else the median of what members say, where they are three or more."""
        return self.check(self._with(weights)) if self.check else agreed(self._judged(weights, number))

    def updates(
        self,
        what: str,
        weights: Weights,
        number: int,
        rounds: int = 1,
        proximal_mu: float = 0.0,
        nodes: Mapping[int, str] | None = None,
    ) -> dict[str, Weights]:
        """What members, all or those of some nodes, make of some weights by training on their own images, by name.

        They train for the epochs of so many rounds, from that number (from 1) on, before they answer.

        Raises:
            IncompleteError: too few sent sound ones.
        """
        asked = {"server-round": number, "rounds": rounds, "proximal-mu": proximal_mu}
        answers = self._ask(wire.TRAIN, weights, partial(wire.weights_of, sent=weights), asked, nodes)
        updates = self._sound(answers, weights)
        note(answers.line(what))
        self.grid.enough(len(updates), "sent sound weights")
        return updates

    def moments(self, weights: Weights) -> list[Weights]:
        """What every member says of the features that a network makes of its images, of no more than it weighs.

        Raises:
            IncompleteError: too few did.
        """
        answers = self._ask(wire.MOMENTS, weights, partial(sound_moments, form=empty(head_of(self.model))), {})
        _refuse(answers, outsized({answers.names[node]: own for node, own in answers.good.items()}))
        note(answers.line("moments"))
        self.grid.enough(len(answers.good), "sent sound moments")
        return [of_images(own, self.members.images[answers.names[node]]) for node, own in answers.good.items()]

    def answers_with_numbers(self, weights: Weights) -> bool:
        """Whether a model of some weights makes finite numbers of an image, here of noise."""
        side, draws = self.experiment.image_size, torch.Generator().manual_seed(0)
        noise_B3SS = torch.randint(0, 256, (16, 3, side, side), generator=draws, dtype=torch.uint8)
        return bool(predict(self._with(weights), noise_B3SS).isfinite().all())

    def deliver(self, weights: Weights, left_out: tuple[str, ...] = (), prototypes: Prototypes | None = None) -> int:
        """Send the final model to every member but those left out; returns how many kept it."""
        self.only_without(left_out)
        answers = self._ask(wire.DELIVER, weights, wire.kept_of, {}, prototypes=prototypes)
        note(answers.line("final model"))
        return sum(answers.good.values())

    def adapt(self, weights: Weights, prototypes: Prototypes, how: AdaptSettings, left_out: tuple[str, ...]) -> Adapted:
        """What every member but those left out says of the final model as it is, and adapted to itself."""
        self.only_without(left_out)
        asked = {"adapt": how.model_dump_json()}
        answers = self._ask(wire.ADAPT, weights, wire.adapted_of, asked, prototypes=prototypes)
        note(answers.line("adapted"))
        return Adapted(by_client=tuple(answers.good.get(member.node) for member in self.members.all))

    def drawn(self, number: int) -> dict[int, str]:
        """Which members are asked in a round."""
        nodes, share = self.members.nodes, self.experiment.rounds.participation
        count = min(len(nodes), max(self.grid.least, round(share * len(nodes))))
        chosen = generator(self.seed, 2, number).permutation(len(nodes))[:count]
        return {node: nodes[node] for place, node in enumerate(nodes) if place in set(chosen.tolist())}

    def leave_out(self, blamed: Mapping[str, str], number: int) -> None:
        """From a round on, each with the reason."""
        for name, why in blamed.items():
            note(f"{name} is left out from round {number} on: {why}")
        self.only_without((*self.outside(), *blamed))

    def only_without(self, left_out: tuple[str, ...]) -> None:
        """All members are asked from now on, but those."""
        self.members = Members(self.members.all, self.experiment.trusted_counts, left_out)

    def outside(self) -> tuple[str, ...]:
        """Who was left out so far."""
        return tuple(member.name for member in self.members.all if member not in self.members.inside)

    def _sound(self, answers: Answers[Weights], weights: Weights) -> dict[str, Weights]:
        """The weights of those who answered, by name, without those that nobody need average to know."""
        updates = {answers.names[node]: own for node, own in answers.good.items()}
        several = self.guarded and len(updates) > 1
        ruinous = guard.absurd(guard.steps(weights, updates, self.parameters)) if several else {}
        _refuse(answers, ruinous)
        return {name: updates[name] for name in sorted(updates) if name not in ruinous}

    def _judged(self, weights: Weights, number: int) -> dict[str, float]:
        answers = self._ask(wire.EVALUATE, weights, wire.share_of, {"server-round": number})
        if not answers.complete:
            note(answers.line(f"judging round {number}"))
        return {answers.names[node]: share for node, share in answers.good.items() if share is not None}

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

    def _with(self, weights: Weights) -> PreTrainedModel:
        self.model.load_state_dict(weights)
        return self.model


def _refuse(answers: Answers[T], blamed: Mapping[str, str]) -> None:
    """Take no answer of some clients, by name, each with the reason."""
    for node, name in answers.names.items():
        if name in blamed:
            answers.refused[node] = blamed[name]
            del answers.good[node]
