"""Each method of an arena over its seeds, in one line: what the page, the terminal and the README show."""

import statistics

from rich import box
from rich.table import Table
from rich.text import Text

from fglfast.base.config import Settings
from fglfast.federation.method_names import ALONE, FEDERATED, TITLES, Method
from fglfast.federation.records import Arena, Result

SPENT = ("bytes_up", "bytes_down", "server_seconds", "client_seconds")


class Gain(Settings):
    """What adapting a method's model gains its clients, on their held-out images; medians over the seeds.

    Attributes:
        method: its name.
        worst: accuracy of the worst client, before and after.
        middle: of the median client.
    """

    method: Method
    worst: tuple[float, float]
    middle: tuple[float, float]

    @property
    def title(self) -> str:
        """For people."""
        return TITLES[self.method]


class Summary(Settings):
    """One method at one round; medians over the seeds.

    Attributes:
        method: its name.
        rounds: FedAvg rounds until here.
        test: accuracy on the real test images.
        low: the lowest of the seeds.
        high: the highest.
        worst_client: accuracy of the worst client, on its held-out images (local-only: with its own model); None where
            no client judged, as of an ensemble.
        median_client: of the middle client, likewise: beside the mean, it is what no single client can set.
        worst_model: test accuracy of the worst of several models; None for one.
        bytes_up: of all clients in all rounds.
        bytes_down: likewise, without the delivery of the final model.
        server_seconds: synthesis, training, averaging, fine-tuning.
        client_seconds: waiting for clients.
    """

    method: Method
    rounds: int
    test: float
    low: float
    high: float
    worst_client: float | None
    median_client: float | None = None
    worst_model: float | None
    bytes_up: float
    bytes_down: float
    server_seconds: float
    client_seconds: float

    @property
    def title(self) -> str:
        """For people."""
        return TITLES[self.method]

    @property
    def served(self) -> bool:
        """Whether there is a server, whose traffic and seconds count."""
        return self.method in FEDERATED + ALONE

    @property
    def spread(self) -> str:
        """Median of the seeds, and where they lie."""
        return f"{self.test:.1%}" + (f" ({self.low:.1%} to {self.high:.1%})" if self.low < self.high else "")


def summarise(arena: Arena) -> list[Summary]:
    """All methods, in order, at every round whose test accuracy is known."""
    found = []
    for method, results in arena.by_method().items():
        last = results[0].rows[-1].round
        for number in sorted({row.round for row in results[0].rows if row.test_accuracy is not None}):
            if method.startswith("fgl-") and number == 0:
                continue  # the one shot, which has a line of its own
            found.append(_summary(method, results, number, number == last))
    return found


def _summary(method: Method, results: list[Result], number: int, last: bool) -> Summary:
    rows = [row for result in results for row in result.rows if row.round == number]
    tests = [row.test_accuracy or 0.0 for row in rows]
    middle = [row.median for row in rows if row.median is not None]
    lowest = [row.worst_client for row in rows if row.worst_client is not None]
    worst = [result.worst_test for result in results if result.worst_test is not None]
    return Summary(
        method=method,
        rounds=number,
        test=statistics.median(tests),
        low=min(tests),
        high=max(tests),
        worst_client=statistics.median(lowest) if lowest else None,
        median_client=statistics.median(middle) if middle else None,
        worst_model=statistics.median(worst) if last and worst else None,
        **{name: statistics.median(getattr(row, name) for row in rows) for name in SPENT},
    )


def gains(arena: Arena) -> list[Gain]:
    """What adapting gained, of each method of which clients were asked and some said it."""
    found = []
    for method, results in arena.by_method().items():
        said = [result.adapted for result in results if result.adapted and any(result.adapted.by_client)]
        if said:
            worst, middle = (
                [statistics.median(of(adapted.shares(after)) for adapted in said) for after in (False, True)]
                for of in (min, statistics.median)
            )
            found.append(Gain(method=method, worst=(worst[0], worst[1]), middle=(middle[0], middle[1])))
    return found


def gains_table(arena: Arena) -> Table:
    """For the terminal: before and after each client adapted the model to its own images."""
    shown = Table(title=Text("adapted by each client"), box=box.SIMPLE, pad_edge=False, title_justify="left")
    shown.add_column("method", no_wrap=True)
    for heading in ("worst client", "median client"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for line in gains(arena):
        shown.add_row(line.title, *(f"{before:.1%} to {after:.1%}" for before, after in (line.worst, line.middle)))
    return shown


def table(arena: Arena) -> Table:
    """For the terminal, 80 columns wide."""
    title = f"{arena.experiment.data}, {len(arena.images[arena.experiment.seeds[0]])} clients"
    shown = Table(title=Text(title), box=box.SIMPLE, pad_edge=False, title_justify="left")
    shown.add_column("method", no_wrap=True)
    for heading in ("rounds", "test accuracy", "uploaded", "server s"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for line in summarise(arena):
        spent = (f"{line.bytes_up / 1e6:,.2f} MB", f"{line.server_seconds:.0f}") if line.served else ("", "")
        shown.add_row(line.title, str(line.rounds), line.spread, *spent)
    return shown
