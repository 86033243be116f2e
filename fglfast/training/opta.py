"""Class prototypes moved to where a client's features lie, by optimal transport (BECLR's OpTA, arXiv 2402.02444).

Naming the nearest prototype is what a linear layer does: w = M p, b = -p' M p / 2 for distances by a matrix M. So what
comes out is a head. Knows features, and nothing of images or networks.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

ENTROPY = 0.05  # of a plan, in units of the mean cost
ITERATIONS = 50  # of Sinkhorn's
REPEATS = 4  # of plan and move
LABELLED = 5.0  # what a shot weighs beside an image without a label
OWN = 0.5  # images of its class that a delivered prototype counts as
ROUND = 20.0  # images that a round covariance counts as, beside that of the shots
RIDGE = 0.1  # of the mean variance, added to each
ABSENT = -1e30  # the score of a class of which nothing is known: below any that features make, and finite


def nameable(scores_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Whether something is known of each image's own class [N], however sure a layer was made."""
    return scores_NK.gather(1, labels_N[:, None])[:, 0] > ABSENT / 1000


@dataclass(frozen=True)
class Seen:
    """What a client shows of its own images: float64 features.

    Attributes:
        shots_SF: of those whose labels are looked at, the shots; at least one.
        labels_S: their classes.
        others_UF: of others; may be none.
        share_K: which part of its images each class is.
    """

    shots_SF: Tensor
    labels_S: Tensor
    others_UF: Tensor
    share_K: Tensor

    def only(self, kept_S: Tensor) -> "Seen":
        """The same with some of the shots."""
        return replace(self, shots_SF=self.shots_SF[kept_S], labels_S=self.labels_S[kept_S])

    def of_classes(self, classes: int) -> tuple[Tensor, Tensor]:
        """How many shots there are of each class [K], and the sum of their features [K,F]."""
        counts_K = torch.bincount(self.labels_S, minlength=classes).double()
        sums_KF = torch.zeros(classes, self.shots_SF.shape[1], dtype=torch.float64)
        return counts_K, sums_KF.index_add_(0, self.labels_S, self.shots_SF)


@dataclass(frozen=True)
class Delivered:
    """What came with the model, float64.

    Attributes:
        means_KF: the prototypes.
        known_K: which of them there are.
        spread: mean squared distance of a synthetic image from its class's.
    """

    means_KF: Tensor
    known_K: Tensor
    spread: float


@dataclass(frozen=True)
class Head:
    """A last layer: weight [K,F] and bias [K], float64."""

    weight_KF: Tensor
    bias_K: Tensor

    def __call__(self, features_NF: Tensor) -> Tensor:
        """What it says of each class [N,K]."""
        return features_NF @ self.weight_KF.T + self.bias_K


def by_shots(delivered: Delivered, seen: Seen) -> Head:
    """Nearest prototype, by the shots: each class's mean, drawn a little to where the delivered one would be here."""
    return _head(start(delivered, seen), delivered, seen, root(delivered, seen))


def by_transport(delivered: Delivered, seen: Seen) -> Head:
    """The same prototypes, moved by transport to all that the client shows."""
    root_FF = root(delivered, seen)
    straight = replace(seen, shots_SF=seen.shots_SF @ root_FF, others_UF=seen.others_UF @ root_FF)
    moved_KF = move(start(delivered, seen) @ root_FF, straight)
    return _head(torch.linalg.solve(root_FF.T, moved_KF.T).T, delivered, seen, root_FF)


def start(delivered: Delivered, seen: Seen) -> Tensor:
    """Prototypes by the shots [K,F]; classes that the client lacks keep the delivered one.

    Where a delivered one would be here: moved as far as the classes that both know have moved on average.
    """
    means_KF = delivered.means_KF
    counts_K, sums_KF = seen.of_classes(len(means_KF))
    both_K1 = ((counts_K > 0) & delivered.known_K).double()[:, None]
    moves_KF = both_K1 * (sums_KF - counts_K[:, None] * means_KF)
    shift_F = moves_KF.sum(0) / (both_K1[:, 0] * counts_K).sum().clamp(min=1)
    drawn_KF = sums_KF + OWN * both_K1 * (means_KF + shift_F)
    return torch.where(counts_K[:, None] > 0, drawn_KF / (counts_K[:, None] + OWN * both_K1).clamp(min=OWN), means_KF)


def root(delivered: Delivered, seen: Seen) -> Tensor:
    """R [F,F] with R R' the inverse of the covariance within classes, in units of how far shots lie from their means.

    Few shots leave a covariance singular: it is drawn to a round one.
    """
    width = seen.shots_SF.shape[1]
    counts_K, sums_KF = seen.of_classes(len(delivered.means_KF))
    apart_SF = seen.shots_SF - (sums_KF / counts_K.clamp(min=1)[:, None])[seen.labels_S]
    free, total = float((counts_K - 1).clamp(min=0).sum()), float(apart_SF.square().sum())
    eye_FF = torch.eye(width, dtype=torch.float64)
    own_FF = width * apart_SF.T @ apart_SF / total if total > 0 else eye_FF
    spread = total / free if free and total > 0 else max(delivered.spread, 1e-12)
    covariance_FF = (ROUND * eye_FF + free * own_FF) / (ROUND + free) + RIDGE * eye_FF
    root_FF: Tensor = torch.linalg.cholesky(torch.linalg.inv(spread * covariance_FF))
    return root_FF


def move(prototypes_KF: Tensor, seen: Seen) -> Tensor:
    """Prototypes carried into what a client shows [K,F]: P <- normalised plan times features, a few times over.

    A shot is carried to its own class alone. Classes without shots stay where they are.
    """
    held_H = torch.unique(seen.labels_S)
    places_S = torch.searchsorted(held_H, seen.labels_S)
    features_NF, shots = torch.cat([seen.shots_SF, seen.others_UF]), len(seen.labels_S)
    columns_N = torch.ones(len(features_NF), dtype=torch.float64)
    columns_N[:shots] = LABELLED
    share_H = seen.share_K[held_H].clamp(min=1e-3)
    rows_H = LABELLED * torch.bincount(places_S).double() + len(seen.others_UF) * share_H / share_H.sum()
    foreign_HN = torch.zeros(len(held_H), len(features_NF), dtype=torch.bool)
    foreign_HN[:, :shots] = torch.arange(len(held_H))[:, None] != places_S
    moved_HF = prototypes_KF[held_H]
    for _ in range(REPEATS):
        cost_HN = torch.cdist(moved_HF, features_NF).square()
        usual = cost_HN[~foreign_HN].mean().clamp(min=1e-12)
        barred_HN = (cost_HN / usual).masked_fill(foreign_HN, float("inf"))
        plan_HN = sinkhorn(barred_HN, rows_H / rows_H.sum(), columns_N / columns_N.sum(), ENTROPY)
        moved_HF = plan_HN @ features_NF / plan_HN.sum(1, keepdim=True)
    return prototypes_KF.index_put((held_H,), moved_HF)


def sinkhorn(cost_KN: Tensor, rows_K: Tensor, columns_N: Tensor, entropy: float) -> Tensor:
    """The entropic transport plan [K,N] between two distributions (Cuturi, arXiv 1306.0895), in logarithms.

    POT's `ot.sinkhorn` finds the same, but is not installed where clients are, nor does it bar a way (infinite cost).
    """
    scores_KN, up_K = -cost_KN / entropy, torch.zeros_like(rows_K)
    for _ in range(ITERATIONS):
        down_N = columns_N.log() - torch.logsumexp(scores_KN + up_K[:, None], 0)
        up_K = rows_K.log() - torch.logsumexp(scores_KN + down_N, 1)
    return (scores_KN + up_K[:, None] + down_N).exp()


def _head(prototypes_KF: Tensor, delivered: Delivered, seen: Seen, root_FF: Tensor) -> Head:
    """The layer that names the nearest prototype; a class of which nothing is known is never named."""
    known_K = delivered.known_K.index_fill(0, seen.labels_S, True)
    straight_KF = prototypes_KF @ root_FF
    weight_KF = torch.where(known_K[:, None], straight_KF @ root_FF.T, 0.0)
    return Head(weight_KF, torch.where(known_K, -0.5 * straight_KF.square().sum(1), ABSENT))
