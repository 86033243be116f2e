"""The tables of speed: pipelines, engines and where their time goes, training, a server's seconds, planning, shards."""

from collections.abc import Sequence
from typing import Any

from benchmarks.cells import Table, spread
from fglfast.lab.bench.table import number


def peers(result: dict[str, Any]) -> Table:
    """Ours and the peers, fastest first."""
    eager = next((r["images_per_second"] for r in result["contenders"] if r["name"] == "diffusers eager"), None)
    rows: list[Sequence[str]] = [
        (
            row["name"],
            row.get("precision", result["settings"]["dtype"]),
            number(row["images_per_second"]),
            f"{row['images_per_second'] / eager:.2f}x" if eager else "",
            f"{row['share']:.0%}",
            f"{row['peak_memory_bytes'] / 2**30:.2f} GiB",
        )
        for row in result["contenders"]
    ]
    return ("pipeline", "computed in", "images/s", "diffusers eager = 1", "share of the ceiling", "peak memory"), rows


def engines(result: dict[str, Any]) -> Table:
    """The parts of a generator by backend, then encoding and training."""
    rows: list[Sequence[str]] = []
    for part, told in (("unet", "UNet pass"), ("decoder", "VAE decoder"), ("end_to_end", "end to end")):
        for engine in result["engines"]:
            if engine[part]:
                rows.append((f"{told}, {engine['name']}", *_rates(engine[part], "per_second")))
    for entry in result["encode"]:
        told = f"{entry['image_format']} {entry['side']}x{entry['side']}, {entry['threads']} threads"
        rows.append((told, number(entry["images_per_second"]), "", ""))
    step = result["training"]
    if step:
        told = f"training step, {step['arch']} at {step['side']}x{step['side']}, {step['precision']}"
        rows.append((told, *_rates(step, "images_per_second")))
    for ceiling in result["ceilings"]:
        rows.append((f"ceiling in {ceiling['precision']}: {ceiling['by']}", "", number(ceiling["tflops"]), "100%"))
        if ceiling["by_the_book"]:
            told = f"the processor's own figure in {ceiling['precision']}, at the clock that the system names"
            rows.append((told, "", number(ceiling["by_the_book"]), ""))
    return ("measured", "images/s", "TFLOP/s", "share of the ceiling"), rows


def layers(result: dict[str, Any]) -> Table:
    """The kinds of layers that take most of a pass, by precision."""
    rows: list[Sequence[str]] = [
        (row["precision"], name, f"{share:.0%}")
        for row in result["rows"]
        for name, share in {"all that multiplies": row["products"], **row["layers"]}.items()
    ]
    return ("precision", "layers, kernel", "of the pass"), rows


def training(result: dict[str, Any]) -> Table:
    """A training step by loop, and what the parts of one cost."""
    rows: list[Sequence[str]] = [
        (name, number(result["images_per_second"][name]) if name in result["images_per_second"] else "", f"{taken:.1f}")
        for name, taken in result["milliseconds"].items()
    ]
    return ("loop or part", "images/s", "milliseconds a step"), rows


def server_seconds(result: dict[str, Any]) -> Table:
    """A version a line: what its runs took, stage by stage, and its short commands."""
    told = {
        "now": "this version, as it comes",
        "float32": "this version, generator in float32",
        "before": f"commit {result['settings']['before']}",
    }
    stages, verbs = ("engine", "synthesis", "training", "all"), ("embed", "inspect", "evaluate")
    rows: list[Sequence[str]] = [
        (
            told[row["version"]],
            spread([run["accuracy"] for run in row["runs"]]),
            *(f"{row['seconds'][name]:.0f} s" for name in stages),
            *(f"{row['commands'][verb]:.1f} s" if row["commands"] else "" for verb in verbs),
        )
        for row in result["rows"]
    ]
    return ("", "accuracy", *stages[:3], "whole command", *(f"`{verb}`" for verb in verbs)), rows


def demo_training(result: dict[str, Any]) -> Table:
    """A way to train a line."""
    rows: list[Sequence[str]] = []
    for row in result["rows"]:
        title = {"demo": "the demo's", "larger": "as the demo's", "plain": "`train`'s own"}[row["way"]]
        crop = "a sixteenth" if row["crop_padding"] is None else f"{row['crop_padding']} px"
        rates = f"{row['batch_size']}, {row['learning_rate']:g}"
        accuracy = spread([run["accuracy"] for run in row["runs"]])
        rows.append(
            (
                *(title, f"`{row['arch']}`", f"{row['epochs']}", rates, f"{crop}, {row['erasing']:.0%}"),
                *(accuracy, f"{row['seconds']:.0f} s"),
            )
        )
    return ("training", "network", "epochs", "batch, rate", "crop, erased", "accuracy", "epochs took"), rows


def half(result: dict[str, Any]) -> Table:
    """What bfloat16 costs the global model."""
    pairs = len(result["rows"])
    means = (f"{result[precision]:.2%}" for precision in ("float32", "bfloat16"))
    gap = f"{result['points']:+.2f} points ({result['least']:+.2f} to {result['most']:+.2f})"
    return ("pairs", "float32, mean", "bfloat16, mean", "difference, mean and range"), [(str(pairs), *means, gap)]


def scale(result: dict[str, Any]) -> Table:
    """What bookkeeping costs when payloads, classes and images are many."""
    row = (
        *(f"{result[key]:,}" for key in ("clients", "classes", "images", "rows")),
        f"{result['load_and_merge_seconds']:.1f} s",
        f"{1000 * result['plan_seconds']:.0f} ms",
        f"{1000 * result['resume_seconds']:.0f} ms",
        f"{result['bookkeeping_microseconds_per_image']:.1f} µs",
    )
    head = ("clients", "classes", "images", "payload rows", "read and merge", "plan", "resume", "an image")
    return head, [row]


def shard_sizes(result: dict[str, Any]) -> Table:
    """Images a second by shard size: medians of rounds in turn."""
    rates = result["images_per_second"]
    rows = [(size, f"{rate:.1f}", f"{rate / rates['512']:.0%}") for size, rate in rates.items()]
    return ("images a shard", "images/s", "of 512's"), rows


def _rates(entry: dict[str, Any], rate: str) -> tuple[str, str, str]:
    return number(entry[rate]), number(entry["tflops"]), f"{entry['share']:.0%}"
