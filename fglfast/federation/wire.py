"""Payloads, weights and settings as Flower's records, and the bytes they weigh. Knows no method.

Message types: `query.payload` (prompt embeddings), `train` (local epochs from the global weights), `evaluate` (the
global weights on the client's held-out images), `query.deliver` (the final model).
"""

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import Tensor, nn

PAYLOAD, TRAIN, EVALUATE, DELIVER = "query.payload", "train", "evaluate", "query.deliver"
PAUSE = 0.5  # seconds
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # Flower's own names of the records
EXAMPLES, RIGHT, LOSS = "num-examples", "right", "loss"


def weights_record(model: nn.Module) -> ArrayRecord:
    """All weights and buffers of a model."""
    return ArrayRecord({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()})


def load_weights(model: nn.Module, record: ArrayRecord) -> None:
    """Put weights into a model.

    Raises:
        RuntimeError: names or shapes are another model's.
    """
    model.load_state_dict(state(record))


def state(record: ArrayRecord) -> dict[str, Tensor]:
    """Weights by name."""
    return dict(record.to_torch_state_dict())


def count_bytes(content: RecordDict) -> int:
    """Bytes of a message's records as they travel; names and headers of the transport are not counted."""
    return sum(record.count_bytes() for record in content.values())


class CountedGrid:
    """A grid whose traffic is weighed.

    Args:
        grid: of Flower's.
        timeout: seconds that clients have to answer.
        least: how many have to.

    Attributes:
        down: bytes sent to clients so far.
        up: bytes received from them.
    """

    def __init__(self, grid: Grid, timeout: float, least: int) -> None:
        self.grid, self.timeout, self.least = grid, timeout, least
        self.down = self.up = 0

    def wait(self) -> None:
        """Wait until enough clients are there."""
        while len(list(self.grid.get_node_ids())) < self.least:
            time.sleep(PAUSE)

    def ask(self, messages: Iterable[Message]) -> list[Message]:
        """Send messages and wait for the replies, errors included."""
        sent = list(messages)
        self.down += sum(count_bytes(message.content) for message in sent)
        replies = list(self.grid.send_and_receive(sent, timeout=self.timeout))
        self.up += sum(count_bytes(reply.content) for reply in replies if reply.has_content())
        return replies

    def ask_all(self, message_type: str, records: dict[str, Any]) -> list[Message]:
        """The same message to every client that is there."""
        content = RecordDict(records)
        return self.ask(Message(content, node, message_type) for node in sorted(self.grid.get_node_ids()))


def config(**values: Any) -> dict[str, ConfigRecord]:
    """Settings as the one record that a message carries them in."""
    return {CONFIG: ConfigRecord(values)}
