"""What `dataset.json` says of a data set that `synthesize` drew."""

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, FailFast

from fglfast.base.errors import BadInputError
from fglfast.base.wording import differences, some
from fglfast.payload.merge import Merged, by_client
from fglfast.shards.description import FACTS, Description, read_as
from fglfast.shards.tar import read_samples
from fglfast.synthesis.accounts import Account, contradiction
from fglfast.synthesis.plan import Plan, Row
from fglfast.synthesis.settings import SynthesisSettings, facts_of, plan_of

NAME_BYTES = 200  # of an engine's name that is told
BY_CONTENT = 2  # the first version in which an image is named by what its row holds
IN_TURN = 3  # the first in which the rows of a class take turns
# What an image is, whatever else a plan holds. The others say which images there are, and in which shards.
FIXED = ("weights", "image_size", "seed", "image_format", "sampling", "judge", "generator")
Names = Annotated[tuple[str, ...], FailFast()]


class Drawn(Description, SynthesisSettings):
    """A data set's description with all that it was drawn of.

    Attributes:
        model: the generator's name.
        weights: its fingerprint.
        clients: who sent payloads.
        payloads: their digests.
        rows: what they sent, and how many images were drawn of each; version 1 does not say.
        accounts: of each client, in the order of `clients`; earlier data sets have none.
    """

    model_config = ConfigDict(extra="ignore")

    model: str
    weights: str
    clients: Names
    payloads: Names
    rows: Annotated[tuple[Row, ...], FailFast()] = ()
    accounts: Annotated[tuple[Account, ...], FailFast()] = ()

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
            rows=plan.rows,
            **{name: getattr(settings, name) for name in SynthesisSettings.model_fields},
        )

    @classmethod
    def of(cls, out: Path) -> "Drawn":
        """Read and check it.

        Raises:
            BadInputError: missing, malformed, or contradicting itself.
            IncompleteError: an update was stopped while it took the data set's place.
        """
        drawn = read_as(cls, out)
        wrong = "shards: not those of its images" if drawn.shards != -(-drawn.images // drawn.shard_size) else ""
        if problem := wrong or (drawn.by_content and drawn._contradiction()):
            hint = "put the file back as synthesize wrote it, or make the data set again"
            raise BadInputError(f"{out / FACTS}: {problem}", hint)
        return drawn

    @property
    def by_content(self) -> bool:
        """Whether its images are named by what their rows hold; older ones by a place among the payloads' rows."""
        return self.format_version >= BY_CONTENT

    @property
    def in_turn(self) -> bool:
        """Whether the rows of a class take turns; in older ones the images of one follow those of the other."""
        return self.format_version >= IN_TURN

    def _contradiction(self) -> str:
        """How the rows contradict the other facts, or all of them the plan's digest; empty if they do not."""
        keys = [(row.label, row.row) for row in self.rows]
        images = dict.fromkeys((row.label for row in self.rows), 0)
        for row in self.rows:
            images[row.label] += row.images
        if not keys or keys[-1][0] >= len(self.class_names) or any(one >= other for one, other in pairwise(keys)):
            return "rows: none, of no class, or out of order"
        if set(images.values()) != {self.images_per_class} or sum(images.values()) != self.images:
            return "rows: their images are not those of the classes"
        known = set(self.clients)
        strange = next((client for row in self.rows for client in row.claims if client not in known), None)
        if strange is not None or len(known) < len(self.clients) or len(self.clients) != len(self.payloads):
            return "rows: claims of other clients"
        told = self.accounts
        if told and (problem := contradiction(told, self.rows, self.clients, len(self.class_names))):
            return problem
        return "" if self.layout.digest() == self.plan else "its plan is not that of its facts"

    @property
    def layout(self) -> Plan:
        """The data set's plan, as far as it is known without payloads: everything but where the rows' content is."""
        facts = facts_of(self.weights, self.image_size, self)
        shape = (self.class_names, self.images_per_class, self.seed, self.shard_size)
        return Plan(*shape, self.rows, (), facts, self.in_turn)

    @cached_property
    def senders(self) -> frozenset[tuple[str, str]]:
        """Each client with its payload."""
        return frozenset(zip(self.clients, self.payloads, strict=False))

    def same(self, other: "Drawn") -> bool:
        """Whether both are one data set, whatever the generator's folder is called and whatever is told of clients."""
        aside: dict[str, Any] = {"model": "", "accounts": ()}
        return self.model_copy(update=aside) == other.as_far_as(self).model_copy(update=aside)

    def as_far_as(self, there: "Drawn") -> "Drawn":
        """The same without what an earlier data set does not say: so far the two can be compared."""
        if there.generator or not self.generator:
            return self
        known = self.model_copy(update={"generator": None})
        return known.model_copy(update={"plan": known.layout.digest()})

    def chosen(self) -> dict[str, Any]:
        """What tells it from another set of the same generator and noise, the payloads by name."""
        names = {*SynthesisSettings.model_fields, *FIXED, "class_names", "format_version"}
        return self.model_dump(mode="json", include=names) | by_client(self.clients, self.payloads)

    def plan_with(self, merged: Merged) -> Plan:
        """The data set's plan, made again of its payloads.

        Raises:
            BadInputError: they are others.
        """
        plan = replace(plan_of(self.weights, self.image_size, merged, self), in_turn=self.in_turn)
        if plan.rows != self.rows or plan.class_names != self.class_names:
            there, here = by_client(self.clients, self.payloads), by_client(merged.clients, merged.digests)
            differing = differences(there, here)
            raise BadInputError(
                f"the data set was made of other payloads: {differing or 'its rows differ'}",
                f"give those it was made of: the payloads of {some(self.clients)}",
            )
        return plan


def engine_of(shard: Path) -> str | None:
    """The engine that drew a shard's first image; None when the shard is not there, or cannot be read."""
    with suppress(BadInputError, KeyError, StopIteration):
        return str(next(read_samples(shard))[1].facts["engine"])[:NAME_BYTES]
    return None
