"""Which images a node holds: its own folder, or its share of an experiment's. Knows no message.

A standing client's node configuration has `data` = PATH[:SPLIT], and optionally `name`, `model` (its copy of the
generator), `out` (a folder for the final model), `domain` (a word for its images), `captions` (see `embed`), `sign`
with `federation` (its private key and what it signs for), or instead of those `payload` (a file that `fglfast embed`
made, sent as it is whoever asks and however often). A simulated one's has `partition-id`, and the run names the
experiment and the seed.
"""

from functools import lru_cache
from pathlib import Path

from flwr.app import Context

from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.folders import subfolders
from fglfast.client.captions import ATTRIBUTES
from fglfast.client.privacy import Budget
from fglfast.engine.recipe import find_recipe
from fglfast.federation.experiment import Experiment, Partition, find_experiment
from fglfast.generator.text import resolve_model
from fglfast.images.attributes import describe
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages, concatenate
from fglfast.images.partition import (
    Indices,
    partition_by_domain,
    partition_dirichlet,
    partition_dirichlet_classes,
    partition_iid,
)
from fglfast.payload import Signer, open_signer
from fglfast.training.batches import TrainingData, split

EVERYTHING = "all"  # the partition of the one client of centralized training
WORDS = {"shade": 0, "texture": 1, "proportions": 2}
DESCRIBED_SIZE = 32
SPLIT_SEED = 0  # of what a client holds out


class Client:
    """One client.

    Args:
        name: in its payload.
        number: of its draws.
        dataset: its images.
        model: the generator's folder, whose text encoder it uses.
        out: where the final model goes, or None.
        domain: a word for its images, or None.
        captions: of instance-level prompts; see `find_captioner`.
        signer: of its payload, or None.
        budget: of its upload's differential privacy, or None.
        payload: the file that it sends, or None to make one when it is asked.
    """

    def __init__(
        self,
        name: str,
        number: int,
        dataset: LabelledImages,
        model: Path,
        out: Path | None = None,
        domain: str | None = None,
        captions: str = ATTRIBUTES,
        signer: Signer | None = None,
        budget: Budget | None = None,
        payload: Path | None = None,
    ) -> None:
        self.name, self.number, self.dataset, self.model, self.out = name, number, dataset, model, out
        self.domain, self.captions, self.signer = domain, captions, signer
        self.budget, self.payload = budget, payload
        self._prepared: dict[tuple[object, ...], TrainingData] = {}

    def images(self, class_names: tuple[str, ...], size: int, validation_share: float) -> TrainingData:
        """The images at the model's size, decoded once, labelled as the model numbers the classes.

        Raises:
            BadInputError: this client holds a class that the federation does not know.
        """
        key = (class_names, size, validation_share)
        if key not in self._prepared:
            named = self.dataset.named(class_names)
            self._prepared[key] = TrainingData.of(named, size, validation_share, SPLIT_SEED)
        return self._prepared[key]

    def training_images(self, class_names: tuple[str, ...], validation_share: float) -> LabelledImages:
        """The images that are not held out.

        Raises:
            BadInputError: this client holds a class that the federation does not know.
        """
        named = self.dataset.named(class_names)
        return named.select(split(named.labels, validation_share, SPLIT_SEED)[0])


def open_client(context: Context) -> Client:
    """The client that a node's configuration describes."""
    node = context.node_config
    if "data" in node:
        wanted = {"name": f"node-{context.node_id}", "model": "mini", "out": "", "domain": "", "captions": ATTRIBUTES}
        wanted |= {"sign": "", "federation": "", "payload": ""}
        return _standing(str(node["data"]), **{key: str(node.get(key, usual)) for key, usual in wanted.items()})
    experiment, seed = str(context.run_config["experiment"]), int(context.run_config["seed"])
    partition = node["partition-id"]
    return everything(experiment) if partition == EVERYTHING else simulated(experiment, seed)[int(partition)]


def split_over_clients(dataset: LabelledImages, settings: Partition, seed: int) -> list[Indices]:
    """Rows of each client, by any rule that looks at labels or images."""
    if settings.kind == "domain":
        return partition_by_domain(domains(dataset, settings.domain))
    labels, clients, least = dataset.labels, settings.clients, settings.min_images
    if settings.kind == "iid":
        return partition_iid(labels, clients, seed, least)
    drawn = partition_dirichlet if settings.kind == "dirichlet" else partition_dirichlet_classes
    return drawn(labels, clients, settings.beta, seed, least)


def domains(dataset: LabelledImages, word: str) -> list[str]:
    """One measured word of each image."""
    return [describe(dataset.pixels(row, DESCRIBED_SIZE)).split()[WORDS[word]] for row in range(len(dataset))]


@lru_cache(maxsize=2)
def simulated(experiment: str, seed: int) -> tuple[Client, ...]:
    """All clients of an experiment."""
    found = find_experiment(experiment)
    model, held = _generator(found), _held(found, seed)
    return tuple(
        Client(f"client{number:03d}", number, dataset, model, domain=domain, budget=found.privacy)
        for number, (domain, dataset) in enumerate(held)
    )


@lru_cache(maxsize=1)
def everything(experiment: str) -> Client:
    """One client that holds all images of an experiment."""
    found = find_experiment(experiment)
    return Client(EVERYTHING, 0, concatenate([own for _, own in _held(found, seed=0)]), _generator(found))


def _held(experiment: Experiment, seed: int) -> list[tuple[str | None, LabelledImages]]:
    """The domain and the images of each client."""
    if experiment.partition.kind == "domain" and experiment.partition.domain == "folder":
        folders = subfolders(Path(experiment.data))
        if not folders:
            raise BadInputError(f"{experiment.data}: holds no folder of a domain", "lay it out as DOMAIN/CLASS/*.png")
        return [(folder.name, read_dataset(str(folder))) for folder in folders]
    dataset = read_dataset(experiment.data)
    return [(None, dataset.select(rows)) for rows in split_over_clients(dataset, experiment.partition, seed)]


@lru_cache(maxsize=1)
def _standing(
    data: str,
    name: str,
    model: str,
    out: str,
    domain: str,
    captions: str,
    sign: str,
    federation: str,
    payload: str,
) -> Client:
    place, key, made = (Path(path) if path else None for path in (out, sign, payload))
    if made and key:
        raise UsageError(
            "`payload` is sent as it is, and `sign` would sign another", "sign it as it is made: embed --sign"
        )
    return Client(
        name,
        0,
        read_dataset(data),
        resolve_model(model),
        place,
        domain or None,
        captions,
        signer=open_signer(key, federation or None),
        payload=made,
    )


def _generator(experiment: Experiment) -> Path:
    return find_recipe(experiment.recipe).model_folder()
