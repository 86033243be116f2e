"""Which images a node holds: its own folder, or its share of an experiment's. Knows no message.

A standing client has `data` = PATH[:SPLIT] in its node configuration, and optionally `name`, `model` (its copy of the
generator) and `out` (a folder for the final model). A simulated one has `partition-id`, and the run names the
experiment and the seed.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context

from fglfast.attributes import describe
from fglfast.client.partition import Indices, partition_by_domain, partition_dirichlet, partition_iid
from fglfast.dataset import LabelledImages, read_dataset
from fglfast.federation.experiment import Partition, find_experiment
from fglfast.federation.local import ClientImages

EVERYTHING = "all"  # the partition of the one client of centralized training
WORDS = {"shade": 0, "texture": 1, "proportions": 2}
DESCRIBED_SIZE = 32


class Client:
    """One client: its name, its images, where the final model goes."""

    def __init__(self, name: str, number: int, dataset: LabelledImages, out: Path | None = None) -> None:
        self.name, self.number, self.dataset, self.out = name, number, dataset, out
        self._prepared: dict[tuple[int, float], ClientImages] = {}

    def images(self, size: int, validation_share: float) -> ClientImages:
        """The images at the model's size, decoded once."""
        key = (size, validation_share)
        if key not in self._prepared:
            self._prepared[key] = ClientImages.prepare(self.dataset, size, validation_share, seed=0)
        return self._prepared[key]


def open_client(context: Context) -> Client:
    """The client that a node's configuration describes."""
    node = context.node_config
    if "data" in node:
        return _standing(str(node["data"]), str(node.get("name", context.node_id)), str(node.get("out", "")))
    experiment, seed = str(context.run_config["experiment"]), int(context.run_config["seed"])
    partition = node["partition-id"]
    return everything(experiment) if partition == EVERYTHING else simulated(experiment, seed)[int(partition)]


def split_over_clients(dataset: LabelledImages, settings: Partition, seed: int) -> list[Indices]:
    """Rows of each client."""
    if settings.kind == "iid":
        return partition_iid(dataset.labels, settings.clients, seed)
    if settings.kind == "dirichlet":
        return partition_dirichlet(dataset.labels, settings.clients, settings.beta, seed)
    which = WORDS[settings.word]
    words = [describe(dataset.pixels(index, DESCRIBED_SIZE)).split()[which] for index in range(len(dataset))]
    return partition_by_domain(np.asarray(words).tolist())


@lru_cache(maxsize=4)
def simulated(experiment: str, seed: int) -> tuple[Client, ...]:
    """All clients of an experiment."""
    found = find_experiment(experiment)
    dataset = read_dataset(found.data)
    parts = split_over_clients(dataset, found.partition, seed)
    return tuple(Client(f"client{number:03d}", number, dataset.select(rows)) for number, rows in enumerate(parts))


@lru_cache(maxsize=1)
def everything(experiment: str) -> Client:
    """One client that holds all images of an experiment."""
    return Client(EVERYTHING, 0, read_dataset(find_experiment(experiment).data))


@lru_cache(maxsize=1)
def _standing(data: str, name: str, out: str) -> Client:
    return Client(name, 0, read_dataset(data), Path(out) if out else None)
