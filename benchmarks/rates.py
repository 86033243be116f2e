"""The rates that each method of the arena gets at each skew, chosen on public images and never on a test image.

As many public images as the preset has private ones are dealt to clients in its way, since a rate goes with the number
of steps in a round; others judge. What a method has of its own (`chosen` in an experiment) is found one key after the
other, each at the best of those before. `benchmarks.arena` reads what is found here.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter

from benchmarks.results_file import measured, save_result
from fglfast.base.console import note
from fglfast.base.errors import IncompleteError
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import Experiment, MethodSettings, find_experiment
from fglfast.federation.method_names import Method
from fglfast.federation.records import Result
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.lab.audit.shadows import write_parquet
from fglfast.training.batches import split

TUNED: tuple[Method, ...] = ("fedavg", "fgl-rounds", "ensemble")
# Of each key, what is tried, None for what the preset says; the first wins a tie.
AXES: dict[str, tuple[Any, ...]] = {
    "learning_rate": (0.03, 0.01, 0.003, 0.1),
    "rate_decay": (None, 0.95, 0.9),
    "statistics": (None, "fixed"),
}
# Whose clients train as those of another: they have what that one has, and FedProx its mu.
ALIKE: dict[Method, Method] = {"fedprox": "fedavg", "fgl-rounds-finetune": "fgl-rounds", "local": "ensemble"}
NOTHING = MethodSettings()
MU = {"proximal_mu": (0.01, 0.001, 0.1, 1.0)}
MOST, JUDGES = 0.8, 5000  # at most that share of the public images is dealt, and so many judge


def main(
    preset: Annotated[str, typer.Argument(help="fashion-skewed, fashion-mild, fashion-iid, ...: each has its own")],
    public: Annotated[str, typer.Option(help="The server's labelled images.")] = "fashion_mnist.npz:public",
    data: Annotated[str, typer.Option(help="The arena's: its split private says how many are dealt.")] = "fashion",
    seeds: Annotated[int, typer.Option(help="A choice is judged by the mean over them.")] = 1,
    work: Annotated[Path, typer.Option(help="Folder of the runs; a second call redoes nothing.")] = Path("runs/rates"),
    engines: Path = Path("engines/build"),
) -> None:
    """Choose for each method, and save `benchmarks/results/rates-NAME.json`. Hours on two cores."""
    folder = work / Path(preset).stem
    dealt, judging = _parts(read_dataset(public), len(read_dataset(f"{data}:private")), folder)
    changes: dict[str, Any] = {"data": dealt, "test": judging, "public": "", "public_epochs": None, "chosen": {}}
    changes["seeds"] = tuple(range(seeds))
    asked = find_experiment(preset).model_copy(update=changes)
    chosen: dict[Method, MethodSettings] = {}
    tried: list[dict[str, Any]] = []
    for method in (*TUNED, *ALIKE):
        axes = AXES if method in TUNED else MU if method == "fedprox" else {}
        begun = chosen.get(ALIKE.get(method, method), MethodSettings())
        judge = partial(_judged, asked, method, folder, engines)
        chosen[method], rows = choose(axes, judge, begun)
        tried += [{"method": method, **row} for row in rows]
        typer.echo(f"{method}: {chosen[method].model_dump_json(exclude_none=True)}")
    shown = asked.model_dump(mode="json", exclude={"data", "test", "public", "chosen", "methods"})
    found = {method: choice.model_dump(exclude_none=True) for method, choice in chosen.items()}
    facts = {"public": Path(public).name, "images": len(read_dataset(dealt)), "judges": len(read_dataset(judging))}
    save_result(result_name(preset), facts | {"experiment": shown, "chosen": found, "tried": tried})


def result_name(preset: str) -> str:
    """Of the file under `results/`, without its ending."""
    stem = Path(preset).stem
    return stem.replace("fashion", "rates") if stem.startswith("fashion") else f"rates-{stem}"


def choices(preset: str) -> dict[Method, MethodSettings]:
    """What was chosen for each method at a preset; nothing where nobody did."""
    chosen = [found["chosen"] for found in measured(result_name(preset))]
    return TypeAdapter(dict[Method, MethodSettings]).validate_python(chosen[0] if chosen else {})


def choose(
    axes: Mapping[str, Sequence[Any]], judge: Callable[[MethodSettings], float], begun: MethodSettings = NOTHING
) -> tuple[MethodSettings, list[dict[str, Any]]]:
    """The best of what is tried, one key after the other from where it is begun, and the accuracy of each."""
    best, known = begun, dict[str, float]()

    def accuracy(choice: MethodSettings) -> float:
        text = choice.model_dump_json(exclude_none=True)
        if text not in known:
            known[text] = judge(choice)
        return known[text]

    for key, values in axes.items():
        best = max((best.model_copy(update={key: value}) for value in values), key=accuracy)
    return best, [{**json.loads(text), "accuracy": found} for text, found in known.items()]


def _judged(experiment: Experiment, method: Method, folder: Path, engines: Path, choice: MethodSettings) -> float:
    """Accuracy of a method with a choice on the images that judge: the mean over the seeds."""
    if method.startswith("fgl"):
        _share_one_shot(experiment, folder, folder / _trial(method, choice), engines)
    results = run_choice(experiment, method, choice, folder, engines)
    return sum(result.test_accuracy for result in results) / len(results) if results else 0.0


def run_choice(
    experiment: Experiment, method: Method, choice: MethodSettings, folder: Path, engines: Path
) -> tuple[Result, ...]:
    """A method's results with a choice, in a folder of its own; none where it diverges."""
    name = _trial(method, choice)
    asked = experiment.model_copy(update={"methods": (method,), "chosen": {method: choice}})
    try:
        return run_experiment(asked, folder / name, engines).results
    except IncompleteError as error:  # no client has sound weights to send
        note(f"{name}: {error.message}")
        return ()


def _trial(method: Method, choice: MethodSettings) -> str:
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


def _parts(public: LabelledImages, count: int, folder: Path) -> tuple[str, str]:
    """Public images as two files: what clients are dealt, so many if there are some left to judge, and what judges."""
    rest, dealt = split(public.labels, min(count / len(public), MOST), seed=0)
    judging = rest[split(public.labels[rest], min(1.0, JUDGES / len(rest)), seed=1)[1]]
    files = folder / "dealt.parquet", folder / "judging.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in zip(files, (dealt, judging), strict=True):
        if not file.exists():
            write_parquet(public.select(rows), file)
    return str(files[0]), str(files[1])


if __name__ == "__main__":
    typer.run(main)
