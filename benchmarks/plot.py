"""Draw `benchmarks/results/throughput.png` from peers.json: images a second, ours and the peers."""

from pathlib import Path
from typing import Annotated

import typer
from matplotlib.figure import Figure

from benchmarks.results_file import RESULTS, result

OURS, THEIRS = "#0b6e99", "#a9a9a9"


def main(
    name: Annotated[str, typer.Option(help="Name of the result.")] = "peers",
    out: Annotated[Path, typer.Option(help="The picture.")] = RESULTS / "throughput.png",
) -> None:
    """Read one result and write the picture."""
    found = result(name)
    rows, settings = found["contenders"], found["settings"]
    figure = Figure(figsize=(8, 1.3 + 0.36 * len(rows)), layout="constrained", dpi=120)
    axis = figure.subplots()
    rates = [row["images_per_second"] for row in rows]
    bars = axis.barh(
        [row["name"] for row in rows],
        rates,
        color=[OURS if row["name"].startswith("fglfast") else THEIRS for row in rows],
        xerr=[
            [rate - settings["batch"] / row["timing"]["slowest"] for rate, row in zip(rates, rows, strict=True)],
            [settings["batch"] / row["timing"]["fastest"] - rate for rate, row in zip(rates, rows, strict=True)],
        ],
        error_kw={"elinewidth": 1, "ecolor": "#444444"},
    )
    labels = [
        f"{row['images_per_second']:.1f}  ({row['precision']}, {row['share']:.0%} of its ceiling)" for row in rows
    ]
    axis.bar_label(bars, labels, padding=6, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.5 * max(settings["batch"] / row["timing"]["fastest"] for row in rows))
    axis.set_xlabel("images/s; whiskers: slowest and fastest round", fontsize=8)
    side, guidance = settings["image_size"], settings["guidance_scale"]
    axis.set_title(
        f"{settings['model']} {side}x{side}, {settings['steps']} steps, guidance {guidance:g}, "
        f"batch {settings['batch']}, {found['machine']['device']}",
        fontsize=9,
        loc="left",
        pad=16,
    )
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out)


if __name__ == "__main__":
    typer.run(main)
