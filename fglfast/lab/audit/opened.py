"""A finished run whose models are audited: what of it there is, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fglfast.base.errors import BadInputError, UsageError
from fglfast.federation.experiment import FILE, Experiment
from fglfast.federation.method_names import Method
from fglfast.federation.records import Arena
from fglfast.training.results import WEIGHTS

USUAL: tuple[Method, ...] = ("fgl", "fedavg")
SINGLE: tuple[Method, ...] = ("fgl", "fgl-rounds", "fgl-rounds-finetune", "fedavg", "fedprox", "centralized")


@dataclass(frozen=True)
class Run:
    """One seed of a finished experiment.

    Attributes:
        folder: of the experiment.
        experiment: its settings.
        seed: the one that is audited.
        class_names: of the federation.
    """

    folder: Path
    experiment: Experiment
    seed: int
    class_names: tuple[str, ...]

    @property
    def file(self) -> Path:
        """The experiment as its clients read it."""
        return self.folder / FILE

    @property
    def out(self) -> Path:
        """What the methods left."""
        return self.folder / f"seed{self.seed}"

    def uploads(self) -> list[Path]:
        """The payloads of one-shot FGL, if it was run."""
        return sorted((self.out / "one-shot" / "clients").glob("*.safetensors"))

    def methods(self, asked: Sequence[str]) -> tuple[Method, ...]:
        """The methods to audit: those asked for, or the usual ones that were run.

        Raises:
            UsageError: one has no model here.
        """
        there = [method for method in SINGLE if (self.out / method / "model" / WEIGHTS).exists()]
        strange = [method for method in asked if method not in there]
        if strange or not there:
            raise UsageError(
                f"{self.out} holds no model of {', '.join(strange) or 'any method'}",
                f"audit one of {', '.join(there)}" if there else "run the experiment first",
            )
        return tuple(method for method in there if method in (asked or USUAL)) or tuple(there)


def open_run(folder: Path, seed: int | None) -> Run:
    """Read what `fglfast run` left.

    Raises:
        BadInputError: no finished run, or one whose private images are not in one data set.
        UsageError: it has no such seed.
    """
    arena = Arena.from_json(folder / "arena.json")
    experiment = arena.experiment
    if experiment.partition.kind == "domain" and experiment.partition.domain == "folder":
        raise BadInputError(
            f"{folder}: its private images are a folder a domain, not one data set",
            "audit one model with --model, --members and --nonmembers",
        )
    seed = experiment.seeds[0] if seed is None else seed
    if seed not in experiment.seeds:
        raise UsageError(f"{folder} has no seed {seed}", f"its seeds are {', '.join(map(str, experiment.seeds))}")
    return Run(folder, experiment, seed, arena.class_names)
