"""What a sweep was asked for and what it found, frozen and ready for JSON."""

from pathlib import Path

from pydantic import Field

from fglfast.base.config import Settings
from fglfast.engine.recipe import Recipe
from fglfast.lab.tuning.candidates import Candidate, Grid
from fglfast.pipeline.scaling import Pilot, Predicted
from fglfast.training.settings import TrainSettings


class TuneSettings(Settings):
    """What is tried, and at what cost.

    Attributes:
        grid: what is tried.
        budget: seconds of synthesis and training that the winner may take.
        train: how each global model is trained; its seed is the synthesis plan's too.
        curve: whether pilots foretell what other numbers of images would bring.
    """

    grid: Grid
    budget: float = Field(gt=0)
    train: TrainSettings
    curve: bool = False


class Measured(Settings):
    """What a candidate took and brought.

    Attributes:
        accuracy: on the validation images.
        synthesis_seconds: wall time of drawing its images.
        training_seconds: wall time of training, the start of its processes included.
        epoch_seconds: of those, spent in epochs.
        evaluation_seconds: wall time of judging; the budget does not count it.
        drawn_with: None if its images were drawn for it alone; else the images per class of the set they were taken
            from, whose seconds it bears in proportion to its images.
    """

    accuracy: float
    synthesis_seconds: float
    training_seconds: float
    epoch_seconds: float
    evaluation_seconds: float
    drawn_with: int | None

    @property
    def server_seconds(self) -> float:
        """Of synthesis and training together."""
        return round(self.synthesis_seconds + self.training_seconds, 3)


class Trial(Settings):
    """A candidate and what became of it.

    Attributes:
        candidate: the choice.
        images: synthetic images of all classes.
        passes: rows of the denoiser that one image costs.
        predicted_seconds: of synthesis and training, before it was run; None for the first, of which nothing was known.
        measured: None if it was not run, as the prediction exceeds the budget.
        eligible: whether it was run and kept within the budget.
        on_front: whether no other was as accurate in fewer seconds, or more accurate in as many.
    """

    candidate: Candidate
    images: int
    passes: int
    predicted_seconds: float | None = None
    measured: Measured | None = None
    eligible: bool = False
    on_front: bool = False

    @property
    def seconds(self) -> float:
        """Server-seconds: measured, or predicted if it was not run."""
        return self.measured.server_seconds if self.measured else self.predicted_seconds or 0.0

    @property
    def accuracy(self) -> float:
        """Of one that was run."""
        assert self.measured is not None
        return self.measured.accuracy


class Tuned(Settings):
    """What a sweep found, `tune.json`.

    Attributes:
        settings: as last asked; candidates of earlier calls in the same folder are among the trials.
        recipe: the recipe that was varied, its model the one that was drawn with.
        engine: key of the engine that drew.
        validation: name of the real images that judged.
        validation_images: how many.
        clients: whose payloads were drawn from.
        trials: by rising seconds.
        winner: name of the most accurate eligible candidate; its accuracy is optimistic, as the choice was made on it.
        machine: in words.
        versions: of the packages that decide a figure.
        pilots: small classifiers trained on a part of the winner's images; none where no curve is asked for.
        curve: their accuracy by images a class, as the law through them foretells it.
    """

    settings: TuneSettings
    recipe: Recipe
    engine: str
    validation: str
    validation_images: int
    clients: int
    trials: tuple[Trial, ...]
    winner: str
    machine: dict[str, str]
    versions: dict[str, str]
    pilots: tuple[Pilot, ...] = ()
    curve: tuple[Predicted, ...] = ()

    @property
    def best(self) -> Trial:
        """The winner."""
        return next(trial for trial in self.trials if trial.candidate.name == self.winner)

    def tuned_recipe(self) -> Recipe:
        """The recipe, sampled as the winner is."""
        return self.recipe.model_copy(update={"sampling": self.best.candidate.sampling})


def read_trials(folder: Path) -> dict[str, Trial]:
    """Finished candidates by name.

    Raises:
        BadInputError: a file is not what this program writes.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        trial = Trial.from_json(path, "delete it, and it is measured again")
        found[trial.candidate.name] = trial
    return found
