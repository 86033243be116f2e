"""What `dataset.json` says of a data set that `synthesize` drew."""

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, FailFast

from fglfast.base.errors import BadInputError
from fglfast.base.wording import differences, some
from fglfast.payload.merge import Merged, by_client
from fglfast.shards.description import FACTS, Description, read_as
from fglfast.shards.tar import read_samples
from fglfast.synthesis.plan import Plan
from fglfast.synthesis.settings import SynthesisSettings, plan_of

NAME_BYTES = 200  # of an engine's name that is told
Names = Annotated[tuple[str, ...], FailFast()]


class Drawn(Description, SynthesisSettings):
    """A data set's description with all that it was drawn of.

    Attributes:
        model: the generator's name.
        weights: its fingerprint.
        clients: who sent payloads.
        payloads: their digests.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    weights: str
    clients: Names
    payloads: Names

    @classmethod
    def to_be(
        cls, plan: Plan, weights: str, image_size: int, model: str, merged: Merged, settings: SynthesisSettings
    ) -> "Drawn":
        """Of a plan: the same whenever and wherever it is made."""
        return cls(
            plan=plan.digest(),
            class_names=plan.class_names,
            images=plan.images,
            shards=plan.shards,
            image_size=image_size,
            model=model,
            weights=weights,
            clients=tuple(merged.clients),
            payloads=tuple(merged.digests),
            **{name: getattr(settings, name) for name in SynthesisSettings.model_fields},
        )

    @classmethod
    def of(cls, out: Path) -> "Drawn":
        """Read and check it.

        Raises:
            BadInputError: missing or malformed.
        """
        drawn = read_as(cls, out)
        if drawn.shards != -(-drawn.images // drawn.shard_size):
            raise BadInputError(f"{out / FACTS}: shards: not those of its images", "make the data set again")
        return drawn

    @cached_property
    def senders(self) -> frozenset[tuple[str, str]]:
        """Each client with its payload."""
        return frozenset(zip(self.clients, self.payloads, strict=False))

    def plan_with(self, merged: Merged) -> Plan:
        """The data set's plan, made again of its payloads.

        Raises:
            BadInputError: they are others.
        """
        plan = plan_of(self.weights, self.image_size, merged, self)
        if plan.digest() != self.plan:
            there, here = by_client(self.clients, self.payloads), by_client(merged.clients, merged.digests)
            differing = differences(there, here)
            raise BadInputError(
                f"the data set was made of other payloads: {differing or 'its plan differs'}",
                f"give those it was made of: the payloads of {some(self.clients)}",
            )
        return plan


def engine_of(shard: Path) -> str | None:
    """The engine that drew a shard's first image; None when the shard is not there, or cannot be read."""
    with suppress(BadInputError, KeyError, StopIteration):
        return str(next(read_samples(shard))[1].facts["engine"])[:NAME_BYTES]
    return None
