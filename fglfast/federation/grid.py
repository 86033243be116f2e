"""A grid whose traffic is weighed and whose every client is accounted for, by name.

Each message's reply is fetched by the message's own number, so that a dead or a late client has its own name, and so
that one reply that Flower itself cannot read is one client's failure and not the run's.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fglfast.base.console import note
from fglfast.base.errors import IncompleteError
from fglfast.base.wording import some
from fglfast.federation import wire

PAUSE = 0.5  # seconds between two looks at who is there, or has answered
EXPIRED, GONE = (3, 4), 5  # Flower's codes of errors that the SuperLink reports in the place of a client
T = TypeVar("T")


@dataclass
class Answers(Generic[T]):
    """What became of one question.

    Attributes:
        names: of all who were to be asked, by node.
        good: answers in their exact form, by node.
        refused: what was wrong with an answer, or why there is none, by node.
        dead: nodes that are not there.
        late: nodes that did not answer in time.
    """

    names: Mapping[int, str]
    good: dict[int, T] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    dead: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all gave a good answer."""
        return len(self.good) == len(self.names)

    def line(self, what: str) -> str:
        """One line for the operator."""
        parts = [f"{what}: asked {len(self.names)}, answered {len(self.good)}"]
        parts += [f"late {self._who(self.late)}"] if self.late else []
        parts += [f"dead {self._who(self.dead)}"] if self.dead else []
        parts += [f"left out {self._who([node])}: {why}" for node, why in self.refused.items()]
        return "; ".join(parts)

    def _who(self, nodes: list[int]) -> str:
        return some([called(self.names[node], node) for node in nodes])


def called(name: str, node: int) -> str:
    """A client by name and node; by its node alone as long as it has no name."""
    return f"{name} (node {node})" if name else f"node {node}"


class Meter:
    """What a grid's clients cost from here on."""

    def __init__(self, grid: "CountedGrid") -> None:
        self.grid, self.down, self.up, self.begun = grid, grid.down, grid.up, time.monotonic()

    def read(self) -> dict[str, Any]:
        """Bytes and seconds, as a row names them."""
        return {
            "bytes_down": self.grid.down - self.down,
            "bytes_up": self.grid.up - self.up,
            "client_seconds": round(time.monotonic() - self.begun, 3),
        }


class CountedGrid:
    """A grid whose traffic is weighed.

    Args:
        grid: of Flower's.
        timeout: seconds that clients have to come or to answer.
        least: how many have to.

    Attributes:
        down: bytes sent to clients so far.
        up: bytes received from them.
    """

    def __init__(self, grid: Grid, timeout: float, least: int) -> None:
        self.grid, self.timeout, self.least = grid, timeout, least
        self.down = self.up = 0

    def nodes(self) -> list[int]:
        """Who is there."""
        return sorted(self.grid.get_node_ids())

    def wait(self, expected: int) -> None:
        """Wait until all clients are there, or the time is up and enough of them are.

        Raises:
            IncompleteError: too few came.
        """
        until = time.monotonic() + self.timeout
        note(f"waiting for {expected} clients, at most {self.timeout:.0f} s")
        while (here := len(self.nodes())) < expected and time.monotonic() < until:
            time.sleep(PAUSE)
        self.enough(here, "came")

    def enough(self, count: int, what: str) -> None:
        """Refuse to go on with too few.

        Raises:
            IncompleteError: fewer than `least`.
        """
        if count < self.least:
            hint = "start more clients, or lower min_clients; run again to go on"
            raise IncompleteError(f"{count} clients {what}, {self.least} are needed", hint)

    def ask(
        self, message_type: str, records: dict[str, Any], form: Callable[[RecordDict], T], names: Mapping[int, str]
    ) -> Answers[T]:
        """Ask clients, by node, the same and bring each answer into its exact form; who does not fit is left out."""
        content, answers = RecordDict(records), Answers[T](names)
        here = set(self.nodes())
        asked = [node for node in sorted(names) if node in here]
        sent = [Message(content, node, message_type, ttl=self.timeout) for node in asked]
        self.down += len(sent) * wire.count_bytes(content)
        waiting = {number: node for number, node in zip(self.grid.push_messages(sent), asked, strict=False) if number}
        answers.dead += sorted(set(names) - set(waiting.values()))
        until = time.monotonic() + self.timeout
        while waiting:
            for number, reply in self._pulled(list(waiting)).items():
                if (node := waiting.pop(number, None)) is not None:
                    self._take(reply, node, form, answers)
            if not waiting or time.monotonic() > until:
                break
            time.sleep(PAUSE)
        here = set(self.nodes()) if waiting else here
        for node in waiting.values():
            (answers.late if node in here else answers.dead).append(node)
        return answers

    def tell(self, node: int, why: str) -> None:
        """Tell a client why it is not taken; nobody waits for an answer."""
        self.grid.push_messages([Message(wire.refusal(why), node, wire.TURNED_AWAY, ttl=60.0)])

    def _pulled(self, numbers: list[str]) -> dict[str, Message | Exception]:
        """Replies by the number of what they answer; what Flower cannot read is an error in its place."""
        try:
            return {reply.metadata.reply_to_message_id: reply for reply in self.grid.pull_messages(numbers)}
        except Exception:
            self.nodes()  # raises where not a reply is at fault, but the way to the SuperLink
        found: dict[str, Message | Exception] = {}
        for number in numbers:
            try:
                found.update(zip([number], self.grid.pull_messages([number]), strict=False))
            except Exception as error:  # whatever Flower raises
                found[number] = error
        return found

    def _take(
        self, reply: Message | Exception, node: int, form: Callable[[RecordDict], T], answers: Answers[T]
    ) -> None:
        if isinstance(reply, Exception):
            answers.refused[node] = wire.one_line(f"its reply cannot be read: {type(reply).__name__}: {reply}")
        elif reply.has_error() and reply.error.code == GONE:
            answers.dead.append(node)
        elif reply.has_error() and reply.error.code in EXPIRED:
            answers.late.append(node)
        elif reply.has_error():
            answers.refused[node] = wire.one_line(reply.error.reason or "it failed")
        else:
            self.up += wire.count_bytes(reply.content)
            try:
                answers.good[node] = wire.read(reply.content, form)
            except (wire.UnfitError, wire.DeclinedError) as error:
                answers.refused[node] = wire.one_line(error)
