"""FGL beside the server alone, FedAvg, FedProx, centralized and local training: a preset of `fglfast run`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.rates import choices
from benchmarks.results_file import RESULTS, renewals, result, save_result
from fglfast.federation.arena import run_experiment
from fglfast.federation.experiment import find_experiment
from fglfast.federation.method_names import METHODS
from fglfast.federation.records import Arena
from fglfast.federation.summary import summarise
from fglfast.report.arena_page import AXES, draw, write_page

PICTURED = "fashion-skewed"  # the preset whose curves the README shows


def main(
    preset: Annotated[str, typer.Argument(help="fashion-skewed, fashion-mild, fashion-iid, ...")],
    public: Annotated[
        str, typer.Option(help="The server's labelled images, PATH[:SPLIT]; without them no `public-only`.")
    ] = "",
    data: Annotated[str, typer.Option(help="Holds the splits private and test.")] = "fashion",
    dense: Annotated[bool, typer.Option("--dense", help="DENSE too, which takes longest.")] = False,
    work: Annotated[Path, typer.Option(help="Folder of the runs; a second call redoes nothing.")] = Path("runs"),
    engines: Path = Path("engines/build"),
    only: Annotated[str, typer.Option(help="Methods, with commas: the others stay as they were measured.")] = "",
) -> None:
    """Run all methods and seeds, draw the page, and save `benchmarks/results/arena-NAME.json`; of one a picture too.

    Each method has the rates that `benchmarks.rates` chose for it at this preset, if it ever did.
    """
    changes: dict[str, Any] = {"data": f"{data}:private", "test": f"{data}:test", "public": public}
    changes["chosen"] = choices(preset)
    asked = find_experiment(preset)
    changes["methods"] = (*asked.methods, "dense") if dense else asked.methods
    if only:
        changes["methods"] = tuple(only.split(","))
    arena = run_experiment(asked.model_copy(update=changes), work / preset, engines)
    write_page(arena, work / preset / "arena.html")
    name, shown = preset.replace("fashion", "arena"), _shown(arena)
    save_result(name, renewed(result(name), shown, only) if only else shown)
    if preset == PICTURED and not only:
        draw(arena, *AXES[1]).savefig(RESULTS / f"{name}.png", dpi=110, metadata={"Software": None})


def _shown(arena: Arena) -> dict[str, Any]:
    """Summaries, and of every round what the curves need; who holds what is in the partition's seed."""
    settings = arena.experiment.model_copy(
        update={key: Path(getattr(arena.experiment, key)).name for key in ("data", "test", "public")}
    )
    rounds = [
        {
            "method": each.method,
            "seed": each.seed,
            "accuracy": [None if row.accuracy is None else round(row.accuracy, 4) for row in each.rows],
            "last_by_client": each.rows[-1].by_client,
        }
        for each in arena.results
    ]
    return {
        "experiment": settings.model_dump(mode="json"),
        "model_bytes": arena.results[0].model_bytes,
        "summaries": [line.model_dump(mode="json") for line in summarise(arena)],
        "rounds": rounds,
        "images_by_client": arena.images,
    }


def renewed(old: dict[str, Any], new: dict[str, Any], only: str) -> dict[str, Any]:
    """A result with some methods measured again or added; it says under "renewed" in which circumstances."""
    methods = {line["method"] for line in new["summaries"]}

    def joined(key: str) -> list[dict[str, Any]]:
        kept = [line for line in old[key] if line["method"] not in methods]
        return sorted([*kept, *new[key]], key=lambda line: METHODS.index(line["method"]))

    return old | {
        "summaries": joined("summaries"),
        "rounds": joined("rounds"),
        "renewed": renewals(old, only),
    }


if __name__ == "__main__":
    typer.run(main)
