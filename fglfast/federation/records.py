"""What an experiment found, `arena.json`: a result for each method and seed, a row for each of its rounds."""

from fglfast.base.config import Settings
from fglfast.federation.experiment import Experiment
from fglfast.federation.method_names import Method


class RoundRow(Settings):
    """The state of things after a round; bytes and seconds are sums over all rounds so far.

    Attributes:
        round: 0 is before the first.
        accuracy: mean over the clients of what each says of its held-out images, weighted by the images that its
            payload claimed; None if none judged.
        median: of the same, each client counting once; no single client can set that of three or more.
        worst_client: the lowest of the same.
        by_client: all of them, in order of name; None for a client with too few images to hold one out, or that is
            silent.
        checked: accuracy by which the weights were kept: on the server's own images if it has some, else that median;
            None where fewer than three say it.
        test_accuracy: on the real test images, at milestones only.
        bytes_down: to all clients.
        bytes_up: from all clients.
        server_seconds: synthesis, training and averaging.
        client_seconds: waiting for clients.
        clients: how many trained; in round 0, how many there are.
        kept: whether the round's average was kept; if not, the weights are those of the row before.
        left_out: names of clients that were found to have ruined a round, this one or an earlier one.
        away: names of clients whose last step led away from all others'; a second one in a row, and they are left out.
    """

    round: int
    accuracy: float | None
    median: float | None = None
    worst_client: float | None
    by_client: tuple[float | None, ...]
    checked: float | None = None
    test_accuracy: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0
    server_seconds: float = 0.0
    client_seconds: float = 0.0
    clients: int = 0
    kept: bool = True
    left_out: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


class Adapted(Settings):
    """What clients say of a final model on their held-out images, before and after each has adapted it to itself.

    Attributes:
        by_client: both shares, in order of name; None for a client that holds out none, or is silent.
    """

    by_client: tuple[tuple[float, float] | None, ...]

    def shares(self, after: bool) -> list[float]:
        """Of all clients that said both."""
        return [shares[after] for shares in self.by_client if shares]


class Result(Settings):
    """One method with one seed.

    Attributes:
        method: its name.
        seed: of partition, weights and draws.
        test_accuracy: on the real test images, read once at the end (local-only: mean over the clients' models).
        worst_test: the lowest of several models; None for one.
        rows: what was seen on the way.
        model_bytes: of one copy of the weights as it travels; the delivery of the final one is not in the rows.
        adapted: what clients say of the model after adapting it to themselves; None where that was not asked.
    """

    method: Method
    seed: int
    test_accuracy: float
    worst_test: float | None = None
    rows: tuple[RoundRow, ...]
    model_bytes: int
    adapted: Adapted | None = None


class Arena(Settings):
    """What an experiment found.

    Attributes:
        experiment: what was run.
        class_names: names of the classes.
        clients: names of the clients, with their domain where they have one.
        generator: its name; empty in a record of before.
        taught_by: what the generator is known to have learned from.
        images: by seed and client, images of each class.
        results: one a method and seed.
        machine: that did it.
        versions: of the packages.
    """

    experiment: Experiment
    class_names: tuple[str, ...]
    clients: tuple[str, ...]
    generator: str = ""
    taught_by: str = ""
    images: dict[int, tuple[tuple[int, ...], ...]]
    results: tuple[Result, ...]
    machine: dict[str, str]
    versions: dict[str, str]

    def by_method(self) -> dict[Method, list[Result]]:
        """The results of each method, a seed after the other."""
        methods = self.experiment.compared
        return {method: [result for result in self.results if result.method == method] for method in methods}
