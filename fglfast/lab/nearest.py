"""Which of many vectors is nearest."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1024


def nearest(queries_NF: Tensor, others_MF: Tensor | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance of each to the nearest of the others, and which it is [N].

    Without others it is the nearest of all queries but itself; infinitely far where there is no other.
    """
    queries_NF, distances, which = queries_NF.double(), [], []
    sought_MF = queries_NF if others_MF is None else others_MF.double()
    for start in range(0, len(queries_NF), CHUNK):
        distance_BM = torch.cdist(queries_NF[start : start + CHUNK], sought_MF)
        if others_MF is None:
            own_B = torch.arange(len(distance_BM))
            distance_BM[own_B, own_B + start] = torch.inf
        one = distance_BM.min(dim=1)
        distances.append(one.values)
        which.append(one.indices)
    return torch.cat(distances).numpy(), torch.cat(which).numpy()
