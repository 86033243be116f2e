"""Images given to classes by partial optimal transport, those first that a classifier is sure of.

Semantic-regularized progressive partial optimal transport (SP2OT, Zhang et al., arXiv 2404.03446; without the semantic
term P2OT, arXiv 2401.09266), for a classifier that stays as it is. Of N images, each with a mass of 1 / N, a share rho
goes to K classes by the plan Q [N,K] that minimises

    <Q, -log P> + imbalance KL(Q'1 | rho / K) - agreement N/2 <Q, S Q> - entropy H(Q, 1 / N - Q1)

over Q >= 0, Q1 <= 1 / N and a total mass of rho. P are the classifier's probabilities. S joins each image with those
nearest to it, so that the third term is what neighbours' labels have in common.

The share 1 - rho that is left out goes to a virtual class that costs nothing: rows and that column are then exact, and
what is left is matrix scaling. Rho grows from round to round as a sigmoid does. A term that is concave is replaced by
its tangent at the plan of the round before (majorisation), so that rounds of one rho never raise the objective.

The second term of the papers has a positive weight: it pulls towards classes that are all alike. A client of a
federation has some and lacks others, so the weight may be negative: that pulls away from it. Then the term is concave,
and a round is one step of the EM that finds the classes' shares from a classifier's probabilities (Saerens et al.,
Neural Computation 2002), exactly that at a weight of -1 with an entropy of 1, no agreement and a rho of 1.

The row of one image depends on all others. Knows no network and no labels.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fglfast.base.config import Settings

Floats = NDArray[np.float64]

STEEP = 5.0  # of the sigmoid by which rho grows: exp(-5 (1 - t)^2), as in the papers
DEAREST = 60.0  # of a cost, in nats: exp(-60 / 0.1), the smallest entropy, is still a float64
RAREST = 1e-12  # share of a class that has none, for its logarithm
SCALINGS, EXACT = 1000, 1e-6  # most steps of one scaling, and the change of its factors at which it ends
SETTLED, MOST_SETTLING = 1e-3, 20  # mass that a last round moves, an image, and how many of those there are at most
AT_ONCE = 1 << 24  # similarities of images that are held at once
TABLES = 6  # of N x K numbers that are held at once


class TransportSettings(Settings):
    """How images are given to classes.

    Attributes:
        imbalance: weight of the classes' distance from being all alike: positive pulls towards that, negative away.
        agreement: weight of what neighbours' labels have in common.
        entropy: weight of the plan's entropy; at 1 an image is shared out by the classifier's probabilities.
        neighbours: nearest images that each is joined with.
        first: share of the images that is given in the first round.
        mass: share of the images that is given in the last.
        rounds: in which it grows.
    """

    imbalance: float = Field(-0.8, ge=-1, le=1e6)
    agreement: float = Field(3.0, ge=0, le=20)
    entropy: float = Field(1.0, ge=0.1, le=10)
    neighbours: int = Field(10, ge=1)
    first: float = Field(0.1, gt=0, le=1)
    mass: float = Field(1.0, gt=0, le=1)
    rounds: int = Field(10, ge=1)


def transport(log_P_NK: NDArray[np.float32], joined_NN: Any, asked: TransportSettings) -> Floats:
    """The plan, in images: what share of each image goes to each class [N,K], at most 1 a row.

    By the logarithms of the classifier's probabilities, and by S as `joins` makes it; None joins no images.
    """
    images, classes = log_P_NK.shape
    cost_NK = -log_P_NK.astype(np.float64)
    plan_NK = np.zeros_like(cost_NK)
    for rho, last in _shares(asked):
        before_NK, costs_NK = plan_NK, cost_NK.copy()
        if joined_NN is not None:
            costs_NK -= asked.agreement * (joined_NN @ plan_NK)
        if asked.imbalance < 0 and plan_NK.any():
            costs_NK += asked.imbalance * np.log(np.maximum(plan_NK.sum(axis=0) / plan_NK.sum(), RAREST) * classes)
        plan_NK = images * scaled(costs_NK, rho, max(asked.imbalance, 0.0), asked.entropy)
        if last and np.abs(plan_NK - before_NK).sum() < SETTLED * images:
            break
    return plan_NK


def _shares(asked: TransportSettings) -> Iterator[tuple[float, bool]]:
    """Rho of each round, and whether it grows no more."""
    for step in range(1, asked.rounds + 1):
        ramp = np.exp(-STEEP * (1 - step / asked.rounds) ** 2)
        yield min(asked.first, asked.mass) + max(0.0, asked.mass - asked.first) * float(ramp), step == asked.rounds
    for _ in range(MOST_SETTLING):
        yield asked.mass, True


def scaled(cost_NK: Floats, rho: float, imbalance: float, entropy: float) -> Floats:
    """The plan [N,K] of a total mass rho that minimises <Q, cost> + imbalance KL(Q'1 | rho / K) - entropy H.

    Matrix scaling of the problem with a virtual class (P2OT, algorithm 1). At an imbalance of 0 classes get what they
    get; as it grows, their masses become equal.
    """
    images, classes = cost_NK.shape
    kernel_NK = np.exp(np.minimum(cost_NK, DEAREST) / -entropy)
    power, wanted = imbalance / (imbalance + entropy), rho / classes
    classes_K, nothing = np.ones(classes), 1.0 - rho
    for _ in range(SCALINGS):
        rows_N = 1 / (images * (kernel_NK @ classes_K + nothing))
        new_K = (wanted / np.maximum(rows_N @ kernel_NK, np.finfo(float).tiny)) ** power
        new = (1 - rho) / rows_N.sum()
        change = max(np.abs(np.log(new_K / classes_K)).max(), abs(new - nothing) / max(new, nothing, 1e-300))
        classes_K, nothing = new_K, new
        if change < EXACT:
            break
    rows_N = 1 / (images * (kernel_NK @ classes_K + nothing))
    kernel_NK *= rows_N[:, None]
    kernel_NK *= classes_K
    return kernel_NK


def joins(features_NF: NDArray[np.float32], neighbours: int) -> Any:
    """S, a sparse matrix [N,N]: half each image itself, half those nearest to it, weighted so that S is symmetric.

    The half that is the image itself makes S positive semidefinite, which the majorisation asks for.

    Args:
        features_NF: of each image; their directions tell which are near.
        neighbours: of each image that it is joined with, or all others where there are fewer.
    """
    from scipy import sparse  # a thin client has no scipy

    images = len(features_NF)
    near_NJ = nearest(features_NF, min(neighbours, images - 1))
    places = np.repeat(np.arange(images), near_NJ.shape[1]), near_NJ.ravel()
    one_way = sparse.csr_array((np.ones(near_NJ.size), places), shape=(images, images))
    both = one_way.maximum(one_way.T)
    root_N = 1 / np.sqrt(both.sum(axis=0))
    weighted: Any = sparse.diags_array(root_N) @ both @ sparse.diags_array(root_N)
    return (sparse.eye_array(images, format="csr") + weighted) / 2


def nearest(features_NF: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The images whose features point most nearly the same way as each one's [N,count], itself left out."""
    lengths_N1 = np.linalg.norm(features_NF, axis=1, keepdims=True)
    units_NF = (features_NF / np.maximum(lengths_N1, np.finfo(np.float32).tiny)).astype(np.float32)
    images = len(units_NF)
    batch = max(1, AT_ONCE // images)
    found = []
    for start in range(0, images, batch):
        alike_BN = units_NF[start : start + batch] @ units_NF.T
        own_B = np.arange(len(alike_BN))
        alike_BN[own_B, own_B + start] = -np.inf
        found.append(np.argpartition(alike_BN, images - count, axis=1)[:, images - count :])
    return np.concatenate(found).astype(np.int64)
