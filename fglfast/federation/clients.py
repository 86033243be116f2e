"""Which images a node holds: its own folder, or its share of an experiment's.

A standing client's node configuration has `data` = PATH[:SPLIT], and optionally `name`, `model` (its copy of the
generator), `out` (a folder for the final model), `domain` (a word for its images), `captions` (see `embed`), `sign`
with `federation` (its private key and what it signs for), or instead of those `payload` (a file that `fglfast embed`
made, sent as it is whoever asks and however often), and `answers` (what it answers besides `USUAL`, with commas). A
simulated one's has `partition-id`, and the run names the experiment and the seed; it answers everything.
"""

from dataclasses import dataclass
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
    partition_classes,
    partition_dirichlet,
    partition_dirichlet_classes,
    partition_domain_labels,
    partition_iid,
    partition_quantity,
    partition_shards,
)
from fglfast.payload import Signer, load_payload, open_signer
from fglfast.training.batches import TrainingData, split

EVERYTHING = "all"  # the partition of the one client of centralized training
WORDS = {"shade": 0, "texture": 1, "proportions": 2}
DESCRIBED_SIZE = 32
SPLIT_SEED = 0  # of what a client holds out
PAYLOADS = ("payload:class", "payload:instance", "payload:learned", "payload:routed")
ANSWERS = (*PAYLOADS, "train", "evaluate", "moments", "deliver")
USUAL = ("payload:class", "deliver")  # without a word: which classes it holds and how many of each, and nothing else


@dataclass(eq=False, repr=False)
class Client:
    """One client.

    Attributes:
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
        answers: what it answers, of `ANSWERS`.
    """

    name: str
    number: int
    dataset: LabelledImages
    model: Path
    out: Path | None = None
    domain: str | None = None
    captions: str = ATTRIBUTES
    signer: Signer | None = None
    budget: Budget | None = None
    payload: Path | None = None
    answers: frozenset[str] = frozenset(ANSWERS)

    def __post_init__(self) -> None:
        self._prepared: dict[tuple[object, ...], TrainingData] = {}

    @property
    def is_private(self) -> bool:
        """Whether its upload carries noise: then nothing else that it says may tell how many images it has."""
        if self.payload is not None:
            return load_payload(self.payload).header.privacy is not None
        return self.budget is not None

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
        """The images that are not held out; all of them under a budget, as one image may change which those are.

        Raises:
            BadInputError: this client holds a class that the federation does not know.
        """
        named = self.dataset.named(class_names)
        if self.budget:
            return named
        return named.select(split(named.labels, validation_share, SPLIT_SEED)[0])


def open_client(context: Context) -> Client:
    """The client that a node's configuration describes."""
    node = context.node_config
    if "data" in node:
        wanted = {"name": f"node-{context.node_id}", "model": "mini", "out": "", "domain": "", "captions": ATTRIBUTES}
        wanted |= {"sign": "", "federation": "", "payload": "", "answers": ""}
        return _standing(str(node["data"]), **{key: str(node.get(key, usual)) for key, usual in wanted.items()})
    experiment, seed = str(context.run_config["experiment"]), int(context.run_config["seed"])
    partition = node["partition-id"]
    return everything(experiment) if partition == EVERYTHING else simulated(experiment, seed)[int(partition)]


def split_over_clients(dataset: LabelledImages, settings: Partition, seed: int) -> list[Indices]:
    """Rows of each client, by any rule that looks at labels or images."""
    labels, clients, beta, least = dataset.labels, settings.clients, settings.beta, settings.min_images
    match settings.kind:
        case "iid":
            return partition_iid(labels, clients, seed, least)
        case "dirichlet":
            return partition_dirichlet(labels, clients, beta, seed, least)
        case "dirichlet-classes":
            return partition_dirichlet_classes(labels, clients, beta, seed, least)
        case "classes":
            return partition_classes(labels, clients, settings.each, seed, least)
        case "shards":
            return partition_shards(labels, clients, settings.each, seed, least)
        case "quantity":
            return partition_quantity(labels, clients, beta, seed, least)
        case "domain":
            return partition_by_domain(domains(dataset, settings.domain))
        case "domain-dirichlet":
            return partition_domain_labels(domains(dataset, settings.domain), labels, clients, beta, seed, least)


def domains(dataset: LabelledImages, word: str) -> list[str]:
    """One measured word of each image."""
    return [describe(dataset.pixels(row, DESCRIBED_SIZE)).split()[WORDS[word]] for row in range(len(dataset))]


@lru_cache(maxsize=2)
def simulated(experiment: str, seed: int) -> tuple[Client, ...]:
    """All clients of an experiment."""
    found = find_experiment(experiment)
    model, held = _generator(found), _held(found, seed)
    return tuple(
        Client(
            f"client{number:03d}",
            number,
            dataset,
            model,
            domain=domain or found.domain or None,
            captions=found.captions,
            budget=found.privacy,
        )
        for number, (domain, dataset) in enumerate(held)
    )


@lru_cache(maxsize=1)
def everything(experiment: str) -> Client:
    """One client that holds all images of an experiment."""
    found = find_experiment(experiment)
    return Client(EVERYTHING, 0, private_images(found), _generator(found))


def private_images(experiment: Experiment) -> LabelledImages:
    """All images that an experiment deals out to its clients."""
    return concatenate(list(_places(experiment.data, _apart(experiment)).values()))


def _apart(experiment: Experiment) -> bool:
    """Whether each domain has a folder."""
    return experiment.partition.kind.startswith("domain") and experiment.partition.domain == "folder"


@lru_cache(maxsize=1)
def _places(data: str, apart: bool) -> dict[str | None, LabelledImages]:
    """The images of a path: by domain where each has a folder, else all in one place without a name."""
    if not apart:
        return {None: read_dataset(data)}
    folders = subfolders(Path(data))
    if not folders:
        raise BadInputError(f"{data}: holds no folder of a domain", "lay it out as DOMAIN/CLASS/*.png")
    return {folder.name: read_dataset(str(folder)) for folder in folders}


def _held(experiment: Experiment, seed: int) -> list[tuple[str | None, LabelledImages]]:
    """The domain and the images of each client."""
    settings, apart = experiment.partition, _apart(experiment)
    places = _places(experiment.data, apart)
    if apart:
        if settings.kind == "domain":
            return list(places.items())
        settings = settings.model_copy(update={"kind": "dirichlet"})
    return [
        (name, dataset.select(rows))
        for number, (name, dataset) in enumerate(places.items())
        for rows in split_over_clients(dataset, settings, seed + number)
    ]


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
    answers: str,
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
        answers=_widened(answers),
    )


def _widened(answers: str) -> frozenset[str]:
    """What a client answers: the usual, and what its configuration adds."""
    added = tuple(word.strip() for word in answers.split(",") if word.strip())
    if unknown := sorted(set(added) - set(ANSWERS)):
        raise UsageError(f"answers: no message is called {unknown[0]!r}", f"choose of {', '.join(ANSWERS)}")
    return frozenset(USUAL + added)


def _generator(experiment: Experiment) -> Path:
    return find_recipe(experiment.recipe).model_folder()
