"""An experiment: data, clients, generator, model, rounds, methods. TOML in, TOML out; knows no transport."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from fglfast.base.config import Seed, Settings
from fglfast.base.errors import BadInputError
from fglfast.client.captions import ATTRIBUTES
from fglfast.client.privacy import Budget
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.federation.aggregation import KRUM, Aggregation
from fglfast.federation.method_names import METHODS, TRAINED, Method
from fglfast.generator.parts import ASSETS
from fglfast.images.partition import MIN_IMAGES
from fglfast.payload import AllowList
from fglfast.payload.header import PromptLevel
from fglfast.pipeline.settings import OneShot
from fglfast.training.settings import AdaptSettings, TrainSettings

FILE = "experiment.toml"  # of a run, in its folder
MOST_ROUNDS = MOST_EPOCHS = 10_000  # clients train for no more rounds, and no longer in one


class Partition(Settings):
    """How private images are split over clients.

    Attributes:
        kind: evenly; each class by Dirichlet proportions over the clients (`dirichlet`); as many images a client, its
            classes by Dirichlet proportions (`dirichlet-classes`); so many classes a client (`classes`); so many shards
            a client of the images sorted by label (`shards`); clients of different sizes (`quantity`); one domain a
            client; or each domain by Dirichlet proportions over so many clients (`domain-dirichlet`).
        clients: how many; with `domain` there are as many as there are domains, with `domain-dirichlet` so many each.
        each: classes or shards a client, with `classes` and `shards`.
        beta: Dirichlet concentration; small is skewed.
        min_images: fewest a client may have; a domain has what it has.
        domain: what an image's domain is: a measured word, or the folder of `data` that it is in.
    """

    kind: Literal[
        "iid", "dirichlet", "dirichlet-classes", "classes", "shards", "quantity", "domain", "domain-dirichlet"
    ] = "dirichlet"
    clients: int = Field(5, ge=1, le=1000)
    each: int = Field(2, ge=1)
    beta: float = Field(0.01, gt=0)
    min_images: int = Field(MIN_IMAGES, ge=1)
    domain: Literal["folder", "shade", "texture", "proportions"] = "folder"


class LocalSettings(Settings):
    """A client's share of one round; the defaults are those of the FGL paper's FedAvg, fresh augmentation apart.

    Attributes:
        epochs: passes over the client's images.
        batch_size: images a step.
        learning_rate: of SGD with momentum 0.9, constant within a round.
        rate_decay: what it is multiplied by from one round to the next.
        statistics: of batch normalisation: of each batch, averaged over the clients; or fixed, those of the global
            weights. FedAvg is known to suffer from the former where clients hold different classes; `bit14-tiny`, an
            architecture of group normalisation, has neither.
        weight_decay: on all weights.
        crop_padding: pixels a random crop may move; None for a sixteenth of the side.
        flip: mirror half of the images.
        erasing: chance that a rectangle of an image is blanked.
    """

    epochs: int = Field(5, ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(0.01, gt=0)
    rate_decay: float = Field(1.0, gt=0, le=1)
    statistics: Literal["batch", "fixed"] = "batch"
    weight_decay: float = Field(1e-4, ge=0)
    crop_padding: int | None = Field(None, ge=0)
    flip: bool = True
    erasing: float = Field(0.25, ge=0, le=1)


class Rounds(Settings):
    """Communication rounds of each method.

    Attributes:
        fedavg: rounds of FedAvg and FedProx from fresh weights; centralized and local-only training and the models of
            an ensemble see as many epochs.
        fgl: rounds that follow the one-shot model.
        fine_tune_epochs: of the server, on synthetic images, after each aggregation; `fgl-longer` has as many, and no
            round.
        fine_tune_rate: peak learning rate of those.
        proximal_mu: weight of FedProx's proximal term (Li et al., arXiv 1812.06127).
        participation: share of the clients that is asked in a round, drawn anew for each; at least `min_clients`.
        milestones: rounds at which the test set is read, besides the last; fixed before anything is seen.
    """

    fedavg: int = Field(20, ge=1, le=MOST_ROUNDS)
    fgl: int = Field(5, ge=1, le=MOST_ROUNDS)
    fine_tune_epochs: int = Field(5, ge=1, le=MOST_EPOCHS)
    fine_tune_rate: float = Field(5e-4, gt=0)
    proximal_mu: float = Field(0.01, gt=0)
    participation: float = Field(1.0, gt=0, le=1)
    milestones: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _has_milestones(self) -> "Rounds":
        most = max(self.fedavg, self.fgl)
        if (stray := next((number for number in self.milestones if not 1 <= number <= most), None)) is not None:
            raise ValueError(f"milestones: no method has a round {stray}; there are 1 to {most}")
        return self


class MethodSettings(Settings):
    """What one method has of its own, as held-out images chose it; None is what `local` and `rounds` say.

    Attributes:
        learning_rate: of its clients.
        rate_decay: likewise.
        statistics: of its batch normalisation.
        proximal_mu: of `fedprox`.
    """

    learning_rate: float | None = Field(None, gt=0)
    rate_decay: float | None = Field(None, gt=0, le=1)
    statistics: Literal["batch", "fixed"] | None = None
    proximal_mu: float | None = Field(None, gt=0)


class Dense(Settings):
    """How the server distils an ensemble without data (DENSE, arXiv 2112.12371; its authors' code).

    Attributes:
        epochs: of a generator fitted anew, then one pass over all images drawn so far. The authors take 200.
        generator_steps: of each.
        batch_size: images an epoch adds, and images a step.
        width: channels of the generator. The authors take 64.
        generator_rate: of Adam, on generator and noise.
        learning_rate: of SGD with momentum 0.9, on the model.
        statistics: weight of the batch-normalisation loss; without such layers there is none.
        boundary: weight of the loss that looks for images on which model and ensemble disagree.
    """

    epochs: int = Field(50, ge=1)
    generator_steps: int = Field(30, ge=1)
    batch_size: int = Field(128, ge=2)
    width: int = Field(32, ge=1)
    generator_rate: float = Field(1e-3, gt=0)
    learning_rate: float = Field(0.01, gt=0)
    statistics: float = Field(1.0, ge=0)
    boundary: float = Field(0.5, ge=0)


class Experiment(OneShot):
    """What `fglfast run` reads: a one shot, whose architecture is every method's, and what it is compared with.

    Attributes:
        data: private images, PATH[:SPLIT].
        test: real test images.
        public: labelled images that the server has itself, PATH[:SPLIT]; empty where it has none.
        partition: of the private images over the clients.
        validation_share: of each client's images, held out for every choice and curve.
        public_epochs: passes over those; None is `train.epochs`, which are few where the images are.
        prompt_level: of the clients' prompts.
        captions: of simulated clients' instance-level prompts: measured words (`attributes`), a captioning model, or a
            file of captions by row or file of `data`.
        domain: a word for all simulated clients' images; folders of domains have words of their own.
        privacy: budget of each client's upload; None adds no noise. A real federation's clients have their own.
        learn: how embeddings are learned, where that is the level.
        route: how routing is, where that is the level.
        inventory: the adapters that routing mixes, a file that `fglfast inventory` made; sent with the question for a
            payload.
        allow: the server's file of clients and their keys (see `AllowList`); simulated clients have none.
        templates: prompt templates of clients' own that class-level payloads may be embedded with, beside the model's.
        domains: words that class-level payloads may have for their images, beside those of the model's `prompts.json`;
            those of simulated clients are known.
        trusted_counts: names of clients whose claimed images are believed, even if they are more than all others hold
            together; of simulated ones they are known.
        local: a client's training.
        rounds: how many.
        chosen: by method, what it has of its own; for those whose clients train.
        dense: the distilled ensemble.
        server: what the server makes of the clients' weights after a round.
        adapt: how clients adapt a final model, where they shall tell what that gains; asked of each method whose model
            the server trained on synthetic images.
        methods: what is compared; unless given, all but `dense`, which takes a quarter of an hour or more a seed;
            `public-only` is left out where there are no public images.
        seeds: each method runs once a seed.
        min_clients: fewest clients that have to answer.
        timeout: seconds a round waits for clients.
    """

    data: str = "fashion:private"
    test: str = "fashion:test"
    public: str = ""
    public_epochs: int | None = Field(None, ge=1)
    partition: Partition = Partition()
    validation_share: float = Field(0.1, gt=0, le=0.5)
    privacy: Budget | None = None
    prompt_level: PromptLevel = "class"
    captions: str = ATTRIBUTES
    domain: str = ""
    learn: LearnSettings = LearnSettings()
    route: RouteSettings = RouteSettings()
    inventory: Path | None = None
    allow: Path | None = None
    templates: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    trusted_counts: tuple[str, ...] = ()
    train: TrainSettings = TrainSettings(arch="resnet10-tiny", image_size=28)  # clients train it too
    local: LocalSettings = LocalSettings()
    rounds: Rounds = Rounds()
    chosen: dict[Method, MethodSettings] = Field({})
    dense: Dense = Dense()
    server: Aggregation = Aggregation()
    adapt: AdaptSettings | None = None
    methods: tuple[Method, ...] = tuple(method for method in METHODS if method != "dense")
    seeds: tuple[Seed, ...] = (0,)
    min_clients: int = Field(2, ge=1)
    timeout: float = Field(3600.0, gt=0)

    @model_validator(mode="after")
    def _sized(self) -> "Experiment":
        if self.train.image_size is None:
            raise ValueError("train.image_size has to be given: clients resize to it")
        if not self.seeds or not self.methods:
            raise ValueError("give at least one seed and one method")
        for key in ("seeds", "methods"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: one is there twice")
        if self.privacy and self.prompt_level == "learned":
            raise ValueError("learned embeddings carry no noise: leave out privacy, or choose another prompt_level")
        if (self.prompt_level == "routed") != (self.inventory is not None):
            raise ValueError("inventory: routed prompts need one, a file that fglfast inventory made, and no others do")
        for method, choice in self.chosen.items():
            if method not in TRAINED or (choice.proximal_mu and method != "fedprox"):
                raise ValueError(f"chosen: no client of {method} trains with that; choose for {', '.join(TRAINED)}")
        self._check_krum()
        return self

    def _check_krum(self) -> None:
        """Refuse a number of hostile clients that Krum's authors exclude (Blanchard et al., arXiv 1703.02757)."""
        if self.server.strategy not in KRUM or self.partition.kind.startswith("domain"):  # as many as the images have
            return
        clients, needed = self.partition.clients, 2 * self.server.hostile + 3
        asked = min(clients, max(self.min_clients, round(self.rounds.participation * clients)))
        if asked < needed:
            some = f"{self.server.strategy} with {self.server.hostile} hostile needs {needed} clients a round"
            raise ValueError(f"server.hostile: {some}, and {asked} are asked")

    def chosen_for(self, method: Method) -> "Experiment":
        """The experiment as one method runs it."""
        own = self.chosen.get(method, MethodSettings()).model_dump(exclude_none=True)
        rounds = self.rounds.model_copy(update={key: own.pop(key) for key in ("proximal_mu",) if key in own})
        return self.model_copy(update={"rounds": rounds, "local": self.local.model_copy(update=own)})

    @property
    def public_training(self) -> TrainSettings:
        """How the server trains on its public images."""
        return self.train.model_copy(update={"epochs": self.public_epochs or self.train.epochs})

    @property
    def compared(self) -> tuple[Method, ...]:
        """The methods that can be run."""
        return tuple(method for method in self.methods if self.public or method != "public-only")

    def allowed(self) -> AllowList | None:
        """Who may send a payload; None is anyone.

        Raises:
            BadInputError: the file that says so cannot be read, or is refused.
        """
        return AllowList.from_toml(self.allow) if self.allow else None

    @property
    def image_size(self) -> int:
        """Side in pixels of what the global model sees."""
        assert self.train.image_size is not None
        return self.train.image_size


def find_experiment(name: str) -> Experiment:
    """Read an experiment by path, or a preset by name.

    Raises:
        BadInputError: no such preset, or its content is refused.
    """
    if name.endswith(".toml"):
        return Experiment.from_toml(Path(name))
    presets = {path.stem: path for path in (ASSETS / "experiments").iterdir()}
    if name not in presets:
        raise BadInputError(f"no preset named {name!r}", f"presets: {', '.join(sorted(presets))}; or give a .toml file")
    return Experiment.from_toml(presets[name])
