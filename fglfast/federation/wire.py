"""Payloads, weights and settings as Flower's records, and the bytes they weigh. Knows no method.

Message types: `query.payload` (prompt embeddings), `train` (local epochs from the global weights), `evaluate` (the
global weights on the client's held-out images), `query.deliver` (the final model).
"""

import time
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import FglError

PAYLOAD, TRAIN, EVALUATE, DELIVER = "query.payload", "train", "evaluate", "query.deliver"
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # Flower's own names of the records
EXAMPLES, RIGHT, LOSS, KEPT, FILE = "num-examples", "right", "loss", "kept", "file"
NEEDED = {TRAIN: (EXAMPLES,), EVALUATE: (EXAMPLES, RIGHT), DELIVER: (KEPT,)}  # whole numbers of a reply
MOST = 1 << 48  # images of a client, as in a payload
PAUSE = 0.5  # seconds between two looks at who is there

Weights = dict[str, Tensor]


def weights_record(weights: Weights) -> ArrayRecord:
    """Weights and buffers of a model by name."""
    return ArrayRecord({name: tensor.detach().cpu() for name, tensor in weights.items()})


def weights(record: ArrayRecord) -> Weights:
    """Weights and buffers by name."""
    return dict(record.to_torch_state_dict())


def config(**values: Any) -> dict[str, ConfigRecord]:
    """Settings as the one record that a message carries them in."""
    return {CONFIG: ConfigRecord(values)}


def metrics(reply: Message) -> dict[str, Any]:
    """The numbers of a reply."""
    return dict(reply.content.metric_records[METRICS])


def count_bytes(content: RecordDict) -> int:
    """Bytes of a message's records as they travel; names and headers of the transport are not counted."""
    return sum(record.count_bytes() for record in content.values())


def complaint(reply: Message, message_type: str, sent: RecordDict) -> str | None:
    """What is wrong with a client's reply, or None: a stranger wrote it."""
    if reply.has_error():
        return reply.error.reason
    try:
        found = metrics(reply) if message_type in NEEDED else {}
        for key in NEEDED.get(message_type, ()):
            if not isinstance(found[key], int) or not 0 <= found[key] <= MOST:
                return f"{key} is {found[key]!r}"
        if message_type == EVALUATE and found[RIGHT] > found[EXAMPLES]:
            return f"{found[RIGHT]} of {found[EXAMPLES]} images are right"
        if message_type == TRAIN:
            return _strange_weights(weights(reply.content.array_records[ARRAYS]), weights(sent.array_records[ARRAYS]))
    except Exception as error:  # whatever reading it raises
        return f"its reply cannot be read: {type(error).__name__}: {error}"
    return None


def _strange_weights(found: Weights, sent: Weights) -> str | None:
    kinds = [{name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} for tensors in (found, sent)]
    if kinds[0] != kinds[1]:
        return "it sent the weights of another model"
    if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
        return "it sent weights that are not finite"
    return None


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

    def wait(self, expected: int) -> None:
        """Wait until all clients are there, or the time is up and enough of them are.

        Raises:
            FglError: too few came.
        """
        until = time.monotonic() + self.timeout
        note(f"waiting for {expected} clients, at most {self.timeout:.0f} s")
        while (here := len(list(self.grid.get_node_ids()))) < expected and time.monotonic() < until:
            time.sleep(PAUSE)
        if here < self.least:
            raise FglError(f"{here} clients came, {self.least} are needed", "start more clients, or lower min_clients")

    def ask(self, message_type: str, records: dict[str, Any]) -> list[Message]:
        """The same message to every client that is there; their replies, those with an error named and left out.

        Raises:
            FglError: too few answered.
        """
        content = RecordDict(records)
        sent = [Message(content, node, message_type) for node in sorted(self.grid.get_node_ids())]
        self.down += len(sent) * count_bytes(content)
        replies = list(self.grid.send_and_receive(sent, timeout=self.timeout))
        self.up += sum(count_bytes(reply.content) for reply in replies if reply.has_content())
        good = []
        for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
            wrong = complaint(reply, message_type, content)
            if wrong is None:
                good.append(reply)
            else:
                note(f"client {reply.metadata.src_node_id} left out: {wrong}")
        if len(good) < self.least:
            raise FglError(
                f"{len(good)} of {len(sent)} clients answered, {self.least} are needed",
                "start more clients, or lower min_clients; run again to go on",
            )
        return good
