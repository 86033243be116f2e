"""What FedAvg and the like have of their own, chosen by the clients' held-out images: never by a test image."""

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rates import choose, run_choice
from fglfast.federation.experiment import Experiment, MethodSettings
from fglfast.federation.method_names import Method
from fglfast.federation.records import Result

AXES: dict[str, tuple[Any, ...]] = {"learning_rate": (0.03, 0.01, 0.1), "statistics": (None, "fixed")}


def tuned(experiment: Experiment, method: Method, work: Path, engines: Path) -> Experiment:
    """An experiment of one method, with the local rate and statistics that are best for it at the first of its seeds.

    Its payloads are class-level: they only say who is in. Of the tries in `work`, finished ones are read.
    """
    plain = {"methods": (method,), "prompt_level": "class", "captions": "attributes", "inventory": None}
    asked = experiment.model_copy(update=plain)
    first = asked.model_copy(update={"seeds": asked.seeds[:1]})

    def judge(choice: MethodSettings) -> float:
        results = run_choice(first, method, choice, work, engines)
        return held_out(results) if results else 0.0

    return asked.model_copy(update={"chosen": {method: choose(AXES, judge)[0]}})


def held_out(results: tuple[Result, ...]) -> float:
    """Accuracy of the first of some results on the images that its clients hold out."""
    return results[0].rows[-1].accuracy or 0.0


def summed(results: tuple[Result, ...]) -> dict[str, Any]:
    """What a table keeps of the results of all seeds."""
    return {
        "test": median(result.test_accuracy for result in results),
        "uploaded": results[0].rows[-1].bytes_up,
        "runs": [{"seed": result.seed, "test": result.test_accuracy} for result in results],
    }
