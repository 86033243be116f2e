"""A Flower grid inside this process: messages go to a ClientApp by a call."""

import logging
from collections.abc import Iterable, Sequence

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE, RUN = 1, 1
logging.getLogger("flwr").setLevel(logging.WARNING)  # it would say so for every round
FAILED = 0  # Flower's error code for what has no code of its own


class LoopbackGrid(Grid):
    """One client a partition, which is its `partition-id`; they run the same app and are asked one after the other."""

    def __init__(self, app: ClientApp, partitions: Sequence[int | str], run_config: UserConfig) -> None:
        self.app = app
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER_NODE, RUN
        self.contexts = {
            node: Context(RUN, node, {"partition-id": partition}, RecordDict(), dict(run_config))
            for node, partition in enumerate(partitions, start=SERVER_NODE + 1)
        }
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        """All clients."""
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Call the app for each message; what it raises becomes an error reply, as on a real grid."""
        return [self._answer(message) for message in messages]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer at once; the replies wait to be pulled."""
        names = []
        for message in messages:
            self._sent += 1
            names.append(f"message-{self._sent}")
            message.metadata.__dict__["_message_id"] = names[-1]  # as Flower's own grid does
            self._replies[names[-1]] = self._answer(message)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to some messages."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message of this run."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Run) -> None:
        """There is one run."""

    @property
    def run(self) -> Run:
        """A run without a name."""
        return Run.create_empty(RUN)

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        try:
            return self.app(message, self.contexts[node])
        except Exception as error:  # whatever a client's code raises is that client's failure
            return Message(Error(FAILED, reason=f"{type(error).__name__}: {error}"), reply_to=message)
