"""How much of one set of features another set covers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

NEIGHBOURS = 5


def coverage(real_ND: NDArray[Any], drawn_MD: NDArray[Any], neighbours: int = NEIGHBOURS) -> float:
    """Share of the real samples that have a drawn one near (Naeem et al., arXiv 2002.09797, equation 8).

    Near is what is no farther than a real sample's k-th nearest other real sample. Unlike recall it is not fooled by a
    few drawn outliers, as no ball is laid around drawn samples.

    Args:
        real_ND: features of N real samples, more than `neighbours`.
        drawn_MD: features of M drawn samples.
        neighbours: k, 5 as in the paper.

    Returns:
        0 to 1; of two sets of one distribution, 1 - prod_{i=1..k} (N-i)/(M+N-i) is expected: 0.97 where N = M.
    """
    radii_N = np.sort(cdist(real_ND, real_ND), axis=1)[:, neighbours]  # the nearest is the sample itself
    return float((cdist(real_ND, drawn_MD).min(axis=1) <= radii_N).mean())
