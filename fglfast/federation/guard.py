"""Whether a round's average is kept, and which client ruined it.

Until something is learned that can be lost, no step counts more than a few usual ones. From then on, an average that
lost most of what was learned is not kept. Who is blamed has to stand out twice: its weights moved much further than
those of most and than its images explain, and without it the round is good. Clients whose classes differ pull an
average apart too, one of them perhaps further than most, and none is to blame for that: there a round goes on without
the one that it is good without, or the last good weights stay, once; of clients that differ so, every round looks bad.

A step as long as the others' but away from all of them loses a little in every round, which no judge sees. Below the
last layer, honest clients mostly learn to look at the same things; where they do, a step that leads the other way is
told from theirs. Clients that share no class may be away from each other by right: then nobody is (`benchmarks/LOG.md`
has the cosines).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median_low

import torch

from fglfast.base.console import note
from fglfast.federation.wire import Weights, is_finite

ABSURD = 300.0  # times the usual step, and of weights three times their own size: never an honest one
FAR, TOO_FAR = 3.0, 10.0  # times the usual step: honest clients without a class of the others come to some 3
FLOOR = 0.01  # of the weights' own size: a step below that counts as that
LOST = 0.25  # of what was known above chance: a round that leaves less is bad
KNOWN = 0.1  # above chance, before it can be lost
# Mean cosine of a step to the others', which is below zero for each: of one that leads away, and of the rest among
# themselves, else nobody can tell. Honest clients without a class of the others come to -0.07, reversed ones to -0.14.
AWAY, TOGETHER, FEWEST = -0.1, 0.03, 4
MOST_TRIED = 20  # clients that are left out one after the other
Judge = Callable[[Weights], float | None]
Averaging = Callable[[Sequence[str]], Weights]


@dataclass(frozen=True)
class Bar:
    """What a round is held against.

    Attributes:
        last: accuracy of the last good weights, by the same judge; None if nobody judged.
        chance: accuracy of guessing.
    """

    last: float | None
    chance: float

    @property
    def known(self) -> float:
        """What can be lost: accuracy above chance; 0 where that is too little to tell, or nobody judged."""
        above = 0.0 if self.last is None else self.last - self.chance
        return above if above >= KNOWN else 0.0

    def is_bad(self, accuracy: float | None) -> bool:
        """Whether an average lost what was known; unknown is not bad."""
        if accuracy is None or not self.known:
            return False
        return not accuracy - self.chance >= LOST * self.known


@dataclass
class Verdict:
    """What is made of a bad round.

    Attributes:
        names: clients whose average is kept; nobody's if the last good weights stay.
        blamed: clients that ruined it, with the reason.
        doubted: clients without which this one round is good, and no more is known.
    """

    names: tuple[str, ...]
    blamed: dict[str, str] = field(default_factory=dict)
    doubted: tuple[str, ...] = ()


def steps(
    before: Weights, updates: Mapping[str, Weights], parameters: Sequence[str], images: Mapping[str, int] | None = None
) -> dict[str, float]:
    """How far each client moved the weights, in usual steps: of parameters or of statistics, whichever is more.

    Who has twice as many `images` as most makes twice as many steps, and may go as far.
    """
    moved = [name for name in before if name in set(parameters)]
    rest = [name for name in before if name not in set(parameters) and before[name].is_floating_point()]
    ratios = dict.fromkeys(updates, 0.0)
    for names in filter(None, (moved, rest)):
        size = _norm([before[name] for name in names])
        norms = {who: _norm([own[name] - before[name] for name in names]) for who, own in updates.items()}
        usual = max(median_low(norms.values()), FLOOR * size) or max(norms.values()) or 1.0
        ratios = {who: max(ratios[who], norms[who] / usual) for who in updates}
    if images is None:
        return ratios
    many = max(1.0, median_low(images[who] for who in updates))  # noise may leave a client none
    return {who: ratio / max(1.0, images[who] / many) for who, ratio in ratios.items()}


def absurd(ratios: Mapping[str, float]) -> dict[str, str]:
    """Clients whose weights nobody need average to know."""
    return {
        who: f"its weights moved {ratio:.0e} times as far as usual"
        for who, ratio in ratios.items()
        if not ratio <= ABSURD
    }


def away(before: Weights, updates: Mapping[str, Weights], body: Sequence[str]) -> tuple[str, ...]:
    """Clients whose step leads away from each of the others', which lead the same way.

    Nobody where there are fewer than `FEWEST`, or half of them would be. Looked at is the `body` below the last layer,
    which clients with other classes pull apart by right.
    """
    if len(updates) < FEWEST or not body:
        return ()
    products_KK = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for name in body:  # one after the other: all at once would be every client's weights again
        steps_KP = torch.stack([(own[name] - before[name]).flatten() for own in updates.values()]).double()
        products_KK += steps_KP @ steps_KP.T
    lengths_K = products_KK.diagonal().sqrt().clamp(min=1e-30)
    cosines_KK = products_KK / lengths_K / lengths_K[:, None]
    nearest_K = cosines_KK.fill_diagonal_(-1.0).amax(1)
    mean_K = cosines_KK.fill_diagonal_(0.0).sum(1) / (len(updates) - 1)
    away_K = (mean_K < AWAY) & (nearest_K < 0)
    rest = int((~away_K).sum())
    if 2 * rest <= len(updates):
        return ()
    together = float(cosines_KK[~away_K][:, ~away_K].sum()) / (rest * (rest - 1))
    if together < TOGETHER:
        return ()
    return tuple(who for who, turned in zip(updates, away_K.tolist(), strict=True) if turned)


def bounded(before: Weights, updates: Mapping[str, Weights], ratios: Mapping[str, float]) -> dict[str, Weights]:
    """The updates, none with a step of more than `FAR` times the usual one (Sun et al., arXiv 1911.07963).

    For rounds in which there is nothing to lose yet, so that no judge could tell that a step ruined everything.
    """
    kept = dict(updates)
    for who, ratio in ratios.items():
        if ratio > FAR:
            kept[who] = {
                name: before[name] + (own - before[name]) * (FAR / ratio) if own.is_floating_point() else own
                for name, own in updates[who].items()
            }
            note(f"{who} moved {ratio:.0f} times as far as usual: it counts as {FAR:.0f}, as nobody can judge yet")
    return kept


def find_cause(ratios: Mapping[str, float], average: Averaging, judge: Judge, bar: Bar) -> Verdict:
    """Which clients ruined a round, by leaving them out; for the ratios of them all see `steps`."""
    names = tuple(ratios)

    def is_good(some: Sequence[str]) -> bool:
        weights = average(some)
        return is_finite(weights) and not bar.is_bad(judge(weights))

    far = tuple(who for who in names if ratios[who] > FAR)
    rest = tuple(who for who in names if who not in far)
    if far and 2 * len(far) < len(names) and is_good(rest):
        cause = tuple(who for who in far if not is_good((*rest, who)))
        kept = tuple(who for who in names if who not in cause)
        words = "its weights moved {:.0f} times as far as usual, and the average without them is good"
        if cause:
            blamed = {who: words.format(ratios[who]) for who in cause if ratios[who] > TOO_FAR}
            return Verdict(kept, blamed, tuple(who for who in cause if who not in blamed))
    if 2 < len(names) <= MOST_TRIED:
        healing = [some for some in combinations(names, len(names) - 1) if is_good(some)]
        if len(healing) == 1:
            return Verdict(healing[0], doubted=tuple(set(names) - set(healing[0])))
    return Verdict(())


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    total = sum(tensor.double().square().sum().item() for tensor in tensors)
    return math.sqrt(total) if math.isfinite(total) else math.inf
