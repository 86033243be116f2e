"""A client's account in a data set: what it claims, what was drawn for that, and how its rows look beside others'.

What follows from the rows that `dataset.json` lists is reckoned here; `beside_others` measures the rest.
"""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from fglfast.base.config import Settings
from fglfast.base.wording import some
from fglfast.synthesis.plan import Row

FAR = 3.0  # times the usual norm, or a third of it
FEWEST = 3  # clients that are compared; of two that disagree nobody knows which is right
CHANCE = 1e-3  # that an honest client agrees so rarely
MOST_COMPARED = 100  # rows of a client
SURE = 0.99  # no agreement is taken for more certain: one row that stands alone is no sign


@dataclass(frozen=True)
class ClassAccount:
    """What a client has to do with the images of a class.

    Attributes:
        claimed: private images that it says it has.
        images: drawn of its rows, others may have sent the same.
        alone: of those, drawn of rows that nobody else sent: they go with the client.
        part: of `images`, its part, if each row's are shared among those who sent it by what they claim.
        rows: distinct prompts that it sent.
        empty: of those, the ones that draw nothing.
    """

    claimed: int = 0
    images: int = 0
    alone: int = 0
    part: float = 0.0
    rows: int = 0
    empty: int = 0

    def __add__(self, other: "ClassAccount") -> "ClassAccount":
        return ClassAccount(  # field by field: a large data set adds a hundred thousand
            self.claimed + other.claimed,
            self.images + other.images,
            self.alone + other.alone,
            self.part + other.part,
            self.rows + other.rows,
            self.empty + other.empty,
        )


class OddRow(Settings):
    """A row that stands out.

    Attributes:
        label: class that its client says it is of.
        row: digest of its content.
        norm: in usual norms; None for token ids.
        taken_for: class that the others' rows say it is of, if another.
        nearest: class whose own prompt, as the model encodes it, it is most like; None where that was not looked for.
    """

    label: int = Field(ge=0)
    row: str = Field(pattern="^[0-9a-f]{64}$")
    norm: float | None = Field(None, ge=0)
    taken_for: int | None = Field(None, ge=0)
    nearest: int | None = Field(None, ge=0)


class Account(Settings):
    """One client.

    Attributes:
        client: its name.
        claimed: private images that it says are behind its rows.
        images: drawn of its rows; others may have sent the same.
        rows: distinct prompts that it sent.
        empty: of those, the ones that draw nothing.
        largest_norm: of its rows, in usual norms: those of the middle client's middle row; None for token ids.
        middle_norm: likewise, of its middle row.
        compared: how many of its rows were given to a model of the others' rows.
        agreed: how many of those the model takes for the class that the client says.
        odd: rows that stand out, a few.
    """

    client: str
    claimed: int = Field(ge=0)
    images: int = Field(ge=0)
    rows: int = Field(ge=0)
    empty: int = Field(ge=0)
    largest_norm: float | None = Field(None, ge=0)
    middle_norm: float | None = Field(None, ge=0)
    compared: int = Field(0, ge=0, le=MOST_COMPARED)
    agreed: int = Field(0, ge=0)
    odd: tuple[OddRow, ...] = ()

    @property
    def agreement(self) -> float | None:
        """Share of the rows that were compared; None if none was."""
        return self.agreed / self.compared if self.compared else None

    @property
    def reckoned(self) -> tuple[str, int, int, int, int]:
        """What follows from the data set's rows."""
        return self.client, self.claimed, self.images, self.rows, self.empty


def shares_of(rows: Iterable[Row], clients: Iterable[str]) -> dict[str, dict[int, ClassAccount]]:
    """By client and label, from the rows of a data set."""
    found: dict[str, dict[int, ClassAccount]] = {client: {} for client in clients}
    for row in rows:
        together = sum(row.claims.values())
        alone, empty = row.images if len(row.claims) == 1 else 0, int(not row.images)
        for client, count in row.claims.items():
            share = ClassAccount(count, row.images, alone, row.images * count / together, 1, empty)
            found[client][row.label] = found[client].get(row.label, ClassAccount()) + share
    return found


def reckon(rows: Iterable[Row], clients: Iterable[str]) -> tuple[Account, ...]:
    """The accounts of all clients, as far as a data set's rows tell."""
    found = []
    for client, by_class in shares_of(rows, clients).items():
        share = together(by_class)
        account = {"claimed": share.claimed, "images": share.images, "rows": share.rows, "empty": share.empty}
        found.append(Account(client=client, **account))
    return tuple(found)


def drawn_otherwise(accounts: Sequence[Account], rows: Iterable[Row]) -> tuple[Account, ...]:
    """The same clients' accounts where other numbers of images are drawn of the same rows."""
    drawn = reckon(rows, [account.client for account in accounts])
    return tuple(
        account.model_copy(update={"images": other.images, "empty": other.empty})
        for account, other in zip(accounts, drawn, strict=True)
    )


def contradiction(accounts: Sequence[Account], rows: Iterable[Row], clients: Iterable[str], classes: int) -> str:
    """How accounts contradict a data set's rows; empty if they do not."""
    if [account.reckoned for account in accounts] != [account.reckoned for account in reckon(rows, clients)]:
        return "accounts: not what the rows tell"
    odd = [odd for account in accounts for odd in account.odd]
    named = [number for row in odd for number in (row.label, row.taken_for, row.nearest) if number is not None]
    if max(named, default=-1) >= classes or any(account.agreed > account.compared for account in accounts):
        return "accounts: of no class, or more that agree than were compared"
    return ""


def together(by_class: Mapping[Any, ClassAccount]) -> ClassAccount:
    """Of all classes."""
    return sum(by_class.values(), ClassAccount())


def displaced(accounts: Iterable[Account]) -> list[Account]:
    """Clients none of whose rows draws anything."""
    return [account for account in accounts if account.rows and account.empty == account.rows]


def disagreeing(accounts: Collection[Account]) -> list[Account]:
    """Clients whose rows agree with the others' far more rarely than those of the middle client.

    Far is less than half as often, and so rarely as an honest one would once in a thousand times.
    """
    usual = _usual_agreement(accounts)
    return [account for account in accounts if usual is not None and _rarely(account, usual)]


def far(norm: float | None) -> bool:
    """Whether a norm, in usual ones, stands out."""
    return norm is not None and not 1 / FAR <= norm <= FAR


def remarks(accounts: Collection[Account], class_names: Sequence[str]) -> list[str]:
    """What is striking, a line each, the clients by name; empty where nothing is."""
    said = []
    if nothing := displaced(accounts):
        names = some([f"{account.client!r} ({account.claimed:,} images)" for account in nothing])
        said.append(f"no row of {names} draws an image: beside other clients' their claims round to none")
    doubted, usual = disagreeing(accounts), _usual_agreement(accounts)
    for account in doubted[:FEWEST]:
        said.append(
            f"client {account.client!r}: the others' rows say the same of {account.agreed:,} of {account.compared:,} "
            f"of its labels, for the middle client of {usual:.0%}{_odd(account, class_names)}"
        )
    loud = [account for account in accounts if any(far(odd.norm) for odd in account.odd) and account not in doubted]
    for account in loud[:FEWEST]:
        norms = [odd.norm for odd in account.odd if odd.norm is not None]
        worst = max(norms, key=lambda norm: max(norm, 1 / norm if norm else math.inf))
        said.append(f"client {account.client!r}: a row of {worst:.2g} times the usual norm{_odd(account, class_names)}")
    if (more := len(doubted[FEWEST:]) + len(loud[FEWEST:])) > 0:
        said.append(f"{more:,} more clients' rows stand out; dataset.json names them")
    return said


def _odd(account: Account, class_names: Sequence[str]) -> str:
    """The nearest known prompts of its odd rows, in words."""
    pairs = [(class_names[odd.label], class_names[odd.nearest]) for odd in account.odd if odd.nearest is not None]
    words = list(dict.fromkeys(f"one for {own!r} is nearest to that of {near!r}" for own, near in pairs))
    return f"; of its prompts, by the model's own for each class, {some(words)}" if words else ""


def _usual_agreement(accounts: Iterable[Account]) -> float | None:
    known = [account.agreement for account in accounts if account.agreement is not None]
    return statistics.median(known) if len(known) >= FEWEST else None


def _rarely(account: Account, usual: float) -> bool:
    if account.agreement is None or account.agreement >= usual / 2:
        return False
    n, p = account.compared, min(usual, SURE)
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(account.agreed + 1)) < CHANCE
