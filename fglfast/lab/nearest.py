"""Which of many vectors is nearest."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1024


def nearest(queries_NF: Tensor, others_MF: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance to the nearest of the others, and which it is [N]."""
    found = [torch.cdist(part.double(), others_MF.double()).min(dim=1) for part in queries_NF.split(CHUNK)]
    return torch.cat([one.values for one in found]).numpy(), torch.cat([one.indices for one in found]).numpy()


def nearest_other(vectors_NF: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance of each to the nearest of all the others, and which it is [N]; infinite where there is no other."""
    vectors_NF = vectors_NF.double()
    distances, which = [], []
    for start in range(0, len(vectors_NF), CHUNK):
        distance_BN = torch.cdist(vectors_NF[start : start + CHUNK], vectors_NF)
        own_B = torch.arange(len(distance_BN))
        distance_BN[own_B, own_B + start] = torch.inf
        one = distance_BN.min(dim=1)
        distances.append(one.values)
        which.append(one.indices)
    return torch.cat(distances).numpy(), torch.cat(which).numpy()
