"""Whose images a model learned from, and of whom a server asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fglfast.federation.clients import everything, simulated
from fglfast.federation.method_names import Method
from fglfast.images.labelled import LabelledImages
from fglfast.lab.audit.opened import Run
from fglfast.training.batches import generator

Clients = NDArray[np.int64]
NOBODY = -1


@dataclass(frozen=True, eq=False)
class AuditedImages:
    """Images that an audit asks of, members and others: with the federation's classes, and as its model takes them."""

    images: LabelledImages
    pixels_N3SS: Tensor


def learned_names(run: Run, method: Method) -> list[list[str]]:
    """Names of the images that each client gives to a method: all if words describe them, else not those held out."""
    file, experiment = str(run.file), run.experiment
    clients = [everything(file)] if method == "centralized" else simulated(file, run.seed)
    if method == "fgl" and experiment.prompt_level in ("class", "instance"):
        return [list(client.dataset.names) for client in clients]
    if method == "fgl":
        return [list(client.training_images(run.class_names, experiment.validation_share).names) for client in clients]
    named = run.class_names, experiment.image_size, experiment.validation_share
    return [[client.dataset.names[row] for row in client.images(*named).train.tolist()] for client in clients]


def holders(names: Sequence[Sequence[str]], rows: Mapping[str, int], images: int) -> Clients:
    """The client that gave each of a pool's images [N], or `NOBODY`, by each client's names and the row of a name."""
    holders_N = np.full(images, NOBODY, dtype=np.int64)
    for client, own in enumerate(names):
        holders_N[[rows[name] for name in own]] = client
    return holders_N


def asked(holders_N: Clients, labels_N: NDArray[np.int64], seed: int) -> Clients:
    """The client that the server asks of each image: did you learn from it?

    It is the one that did; an image that nobody learned from is dealt to a client as its class is spread over them, so
    that neither the client nor the class tells a member from another image.
    """
    asked_N, draws = holders_N.copy(), generator(seed, 6)
    held_N = holders_N != NOBODY
    for label in np.unique(labels_N):
        own_N = labels_N == label
        classmates = holders_N[own_N & held_N] if (own_N & held_N).any() else holders_N[held_N]
        asked_N[own_N & ~held_N] = draws.choice(classmates, int((own_N & ~held_N).sum()))
    return asked_N
