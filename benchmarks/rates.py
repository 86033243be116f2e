"""The rates that each method of the arena gets at each skew, chosen on public images and never on a test image.

The server's public images are dealt to clients as the preset deals the private ones, but for a share of each class,
which judges. What a method has of its own (`chosen` in an experiment) is found one key after the other, each at the
best of those before. `benchmarks.arena` reads what is found here.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from benchmarks import results_file
from benchmarks.global_model import public_split
from benchmarks.results_file import save_result
from fglfast.base.console import note
from fglfast.base.errors import IncompleteError, UsageError
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Choice, Experiment, find_experiment
from fglfast.federation.method_names import Method
from fglfast.federation.methods import Result
from fglfast.images.dataset import read_dataset
from fglfast.lab.audit.shadows import write_parquet
from fglfast.training.batches import split

TUNED = "fedavg,fedprox,fgl-rounds,fgl-rounds-finetune,ensemble"
# Of each key, what is tried; the first wins a tie.
AXES: dict[str, tuple[Any, ...]] = {
    "learning_rate": (0.03, 0.01, 0.003, 0.1),
    "rate_decay": (1.0, 0.95, 0.9),
    "statistics": ("batch", "fixed"),
    "proximal_mu": (0.01, 0.001, 0.1, 1.0),
}
JUDGES = 0.2  # of the public images


def main(
    preset: Annotated[str, typer.Argument(help="fashion-skewed, fashion-mild, fashion-iid, ...: each has its own")],
    data: Annotated[str, typer.Option(help="Holds the split public.")] = "fashion_mnist.npz",
    methods: Annotated[str, typer.Option(help="With commas.")] = TUNED,
    seeds: Annotated[int, typer.Option(help="A choice is judged by the mean over them.")] = 1,
    work: Annotated[Path, typer.Option(help="Folder of the runs; a second call redoes nothing.")] = Path("runs/rates"),
    engines: Path = Path("engines/build"),
) -> None:
    """Choose for each method, and save `benchmarks/results/rates-NAME.json`. Hours on two cores."""
    folder = work / Path(preset).stem
    dealt, judging = _parts(data, folder)
    changes = {"data": dealt, "test": judging, "public": "", "seeds": tuple(range(seeds)), "chosen": {}}
    asked = find_experiment(preset).model_copy(update=changes)
    found: dict[str, Any] = {"chosen": {}, "tried": []}
    for method in TypeAdapter(tuple[Method, ...]).validate_python(methods.split(",")):
        axes = {key: values for key, values in AXES.items() if key != "proximal_mu" or method == "fedprox"}
        best, tried = choose(axes, lambda choice, name=method: _judged(asked, name, choice, folder, engines))
        found["chosen"][method] = best.model_dump(exclude_none=True)
        found["tried"] += [{"method": method, **row} for row in tried]
        typer.echo(f"{method}: {best.model_dump_json(exclude_none=True)}")
    shown = asked.model_dump(mode="json", exclude={"data", "test", "public", "chosen", "methods"})
    save_result(result_name(preset), {"data": Path(data).name, "judges": JUDGES, "experiment": shown} | found)


def result_name(preset: str) -> str:
    """Of the file under `results/`, without its ending."""
    stem = Path(preset).stem
    return stem.replace("fashion", "rates") if stem.startswith("fashion") else f"rates-{stem}"


def choices(preset: str) -> dict[Method, Choice]:
    """What was chosen for each method at a preset; nothing where nobody did."""
    file = results_file.RESULTS / f"{result_name(preset)}.json"
    if not file.exists():
        return {}
    chosen = json.loads(file.read_text(encoding="utf-8"))["chosen"]
    return TypeAdapter(dict[Method, Choice]).validate_python(chosen)


def choose(axes: Mapping[str, Sequence[Any]], judge: Callable[[Choice], float]) -> tuple[Choice, list[dict[str, Any]]]:
    """The best of what is tried, one key after the other, and the accuracy of each."""
    best, known = Choice(), dict[str, float]()

    def accuracy(choice: Choice) -> float:
        text = choice.model_dump_json(exclude_none=True)
        if text not in known:
            known[text] = judge(choice)
        return known[text]

    for key, values in axes.items():
        best = max((best.model_copy(update={key: value}) for value in values), key=accuracy)
    return best, [{**json.loads(text), "accuracy": found} for text, found in known.items()]


def _judged(experiment: Experiment, method: Method, choice: Choice, folder: Path, engines: Path) -> float:
    """Accuracy of a method with a choice on the images that judge: the mean over the seeds."""
    if method.startswith("fgl"):
        _share_one_shot(experiment, folder, folder / _trial(method, choice), engines)
    results = run_choice(experiment, method, choice, folder, engines)
    return sum(result.test_accuracy for result in results) / len(results) if results else 0.0


def run_choice(
    experiment: Experiment, method: Method, choice: Choice, folder: Path, engines: Path
) -> tuple[Result, ...]:
    """A method's results with a choice, in a folder of its own; none where it diverges."""
    name = _trial(method, choice)
    asked = experiment.model_copy(update={"methods": (method,), "chosen": {method: choice}})
    try:
        return run_experiment(asked, folder / name, engines).results
    except IncompleteError as error:  # no client has sound weights to send
        note(f"{name}: {error.message}")
        return ()


def _trial(method: Method, choice: Choice) -> str:
    own = choice.model_dump(exclude_none=True)
    return "-".join([method, *(f"{key}={value}" for key, value in own.items())])


def _share_one_shot(experiment: Experiment, folder: Path, run: Path, engines: Path) -> None:
    """Give a run the one shot of all, which no choice changes."""
    run_experiment(experiment.model_copy(update={"methods": ("fgl",)}), folder / "fgl", engines)
    for seed in experiment.seeds:
        place = run / f"seed{seed}" / "one-shot"
        if not place.exists():
            half = place.with_name("one-shot.half")
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(folder / "fgl" / f"seed{seed}" / "one-shot", half)
            half.rename(place)


def _parts(data: str, folder: Path) -> tuple[str, str]:
    """The public images as two files: what clients are dealt, and what judges."""
    source = public_split(data)
    if not source:
        raise UsageError(f"{data} has no public images", "give --data, a file with the splits public, private and test")
    public = read_dataset(source)
    files = folder / "dealt.parquet", folder / "judging.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in zip(files, split(public.labels, JUDGES, seed=0), strict=True):
        if not file.exists():
            write_parquet(public.select(rows), file)
    return str(files[0]), str(files[1])


if __name__ == "__main__":
    typer.run(main)
