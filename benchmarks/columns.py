"""What each measured table shows of its results. Knows no file but the results it compares with."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.cells import Table, spread
from benchmarks.results_file import measured
from fglfast.base.wording import size
from fglfast.lab.audit.roc import Interval
from fglfast.lab.bench.table import number

FUZZED = {
    "payload": "payloads",
    "shard-verify": "data sets, by `verify`",
    "shard-train": "data sets, by `train`",
    "manifest": "engine manifests",
    "recipe": "recipes",
}
LABELLED_BY = {
    "labelled": "true labels",
    "argmax": "the classifier's own answers",
    "classes alike": "transport, classes pulled to be alike (SP2OT)",
    "EM": "EM of the classes' shares, no neighbours",
    "transport": "transport as `embed --unlabelled` has it",
}


def accuracy(result: dict[str, Any]) -> Table:
    """The headline: medians over the seeds, by engine; then what the server reaches alone, where it was measured."""
    rows: list[Sequence[str]] = []
    for found in (result, *measured("accuracy-int8")):
        runs, asked = found["runs"], found["settings"]
        upload = max(run["largest_upload_bytes"] for run in runs)
        precision = runs[0].get("precision", "int8" if "int8" in asked["recipe"] else "float32")  # of before
        rows.append(
            (
                f"one-shot FGL, {asked['prompt_level']}-level, `{asked['recipe']}` in {precision}",
                *_judged(found, bold=True),
                f"{upload:,} bytes, 1/{runs[0]['model_bytes'] // upload:,} of the model",
                number(median(run["images_per_second"] for run in runs)),
                f"{median(sum(run['seconds'].values()) for run in runs):.0f} s",
            )
        )
    for found in measured("accuracy-server-only", "accuracy-public-only"):
        asked, runs = found["settings"], found["runs"]
        if any(asked[key] != result["settings"][key] for key in ("arch", "image_size", "test")):
            continue
        drawn = [run["images_per_second"] for run in runs if "images_per_second" in run]
        what = (
            f"server only: the list of classes, `{asked['recipe']}`"
            if found["arm"] == "server-only"
            else f"public only: {runs[0]['images']:,} labelled images of the server, {asked['epochs']} epochs"
        )
        rate, seconds = number(median(drawn)) if drawn else "", median(run["seconds"]["all"] for run in runs)
        rows.append((what, *_judged(found), "nothing", rate, f"{seconds:.0f} s"))
    head = ("", "accuracy, real test images", f"{len(result['runs'])} seeds", "largest upload", "images/s", "whole run")
    return head, rows


def _judged(found: dict[str, Any], bold: bool = False) -> tuple[str, str]:
    """The median accuracy of a result, and where its seeds lie."""
    mark, seeds = "**" if bold else "", [run["accuracy"] for run in found["runs"]]
    return f"{mark}{found['accuracy']:.1%}{mark}", f"{min(seeds):.1%} to {max(seeds):.1%}"


def sampling(result: dict[str, Any]) -> Table:
    """Accuracy and rate by steps and guidance."""
    rows: list[Sequence[str]] = [
        (
            str(row["steps"]),
            f"{row['guidance_scale']:g}",
            f"{row['accuracy']:.1%}",
            number(row["images_per_second"]),
        )
        for row in result["rows"]
    ]
    return ("steps", "guidance", "accuracy", "images/s"), rows


def learned(result: dict[str, Any]) -> Table:
    """A domain a line; a column what the server reaches alone, or a kind of prompt."""
    prompts = list(dict.fromkeys(row["prompts"] for row in result["rows"]))
    cells: dict[str, list[str]] = {}
    for row in result["rows"]:
        cells.setdefault(row["domain"], []).append(spread([run["test"] for run in row["runs"]]))
    return ("domain", *prompts), [(domain, *found) for domain, found in cells.items()]


def routed(result: dict[str, Any]) -> Table:
    """A domain and what the clients sent a line."""
    rows: list[Sequence[str]] = [
        (
            row["domain"],
            row["prompts"],
            spread([run["test"] for run in row["runs"]]),
            f"{median(run['bytes'] for run in row['runs']):,.0f}",
            f"{median(run['seconds'] for run in row['runs']):,.0f}",
        )
        for row in result["rows"]
    ]
    return ("domain", "sent", "accuracy", "bytes", "seconds of clients"), rows


def membership(result: dict[str, Any]) -> Table:
    """What each recipe's models give away, the control last."""
    rows: list[Sequence[str]] = [
        (
            row["title"],
            f"{row['accuracy']:.1%}",
            _interval(row["ratio"]["auc"]),
            *(_interval(found) for found in row["ratio"]["caught"]),
            _interval(row["loss"]["auc"]),
            _interval(row["loss"]["caught"][0]),
        )
        for row in result["rows"]
    ]
    likelihood = ("LiRA, area", "found at 1% wrong", "found at 0.1% wrong")
    return ("model", "accuracy", *likelihood, "loss threshold, area", "found at 1% wrong"), rows


def epsilon(result: dict[str, Any]) -> Table:
    """Accuracy of each curve by epsilon; the last column is without noise."""
    epsilons = sorted({row["epsilon"] for row in result["rows"] if row["epsilon"]})
    found = {(row["curve"], row["epsilon"]): [run["accuracy"] for run in row["runs"]] for row in result["rows"]}
    rows: list[Sequence[str]] = [
        (curve, *(spread(found[curve, at]) if (curve, at) in found else "" for at in (*epsilons, None)))
        for curve in dict.fromkeys(row["curve"] for row in result["rows"])
    ]
    return ("epsilon", *(f"{at:g}" for at in epsilons), "no noise"), rows


def forms(result: dict[str, Any]) -> Table:
    """Bytes and accuracy of each form of a payload."""
    rows: list[Sequence[str]] = [
        (f"`{row['form']}`", f"{row['bytes']:,.0f} B", spread([run["accuracy"] for run in row["runs"]]))
        for row in result["rows"]
    ]
    return ("form", "uploaded by all clients", "accuracy"), rows


def living(result: dict[str, Any]) -> Table:
    """What an update in place draws and takes, beside a fresh run."""
    rows = [
        (
            step["change"],
            f"{step['update_images']:,}",
            f"{step['update_seconds']:.1f} s",
            f"{step['fresh_images']:,}",
            f"{step['fresh_seconds']:.1f} s",
            "yes" if step["equal"] else "NO",
        )
        for step in result["steps"]
    ]
    return ("change", "update: images", "update: time", "anew: images", "anew: time", "the same bytes"), rows


def attacks(result: dict[str, Any]) -> Table:
    """What each attack of one client came to."""

    def outcome(row: dict[str, Any]) -> str:
        words = "named" if row["named"] else "not noticed"
        return f"{words}; honest blamed: {', '.join(row['honest_blamed'])}" if row["honest_blamed"] else words

    rows = [("none, all honest", "–", f"{result['honest']['accuracy']:.1%}", "–")]
    rows += [("that client never comes", "–", f"{result['absent']['accuracy']:.1%}", "–")]
    rows += [
        (row["attack"], outcome(row), f"{row['accuracy']:.1%}", f"{0 - 100 * row['lost']:+.1f}")
        for row in result["attacks"]
    ]
    return ("one client in five", "outcome", f"accuracy, {_seeds(result)}", "points, against its absence"), rows


def strategies(result: dict[str, Any]) -> Table:
    """How strategies of aggregation meet attacks that no form of a reply shows."""
    attacks = list(dict.fromkeys(row["attack"] for row in result["strategies"]))
    found = {(row["strategy"], row["attack"]): row["accuracy"] for row in result["strategies"]}
    names = dict.fromkeys(row["strategy"] for row in result["strategies"])
    rows = [(f"`{name}`", *(f"{found[name, attack]:.1%}" for attack in attacks)) for name in names]
    return (f"accuracy, {_seeds(result)}", *attacks), rows


def _seeds(result: dict[str, Any]) -> str:
    seeds = len(result["experiment"]["seeds"])
    return "one seed" if seeds == 1 else f"mean of {seeds} seeds"


def client(result: dict[str, Any]) -> Table:
    """What a client has installed, and how long its commands take; a dash where no seconds were measured."""
    seconds = result.get("seconds", {})
    row = (
        f"{result['distributions']}",
        size(result["bytes"]),
        size(result["bytecode_bytes"]),
        *(f"{seconds[key]:.2f} s" if key in seconds else "–" for key in ("version", "embed", "inspect")),
    )
    head = (
        "distributions",
        "their files",
        "bytecode made of them",
        "`--version`",
        "`embed --send tokens`",
        "`inspect`",
    )
    return head, [row]


def fuzz(result: dict[str, Any]) -> Table:
    """What became of hostile files, a kind a line."""
    rows: list[Sequence[str]] = [
        (
            FUZZED[kind],
            f"{found['cases']:,}",
            f"{found['refused']:,}",
            f"{found['accepted']:,}",
            str(found["failed"]),
            f"{found['slowest']['cpu_ms']:.0f} ms",
            f"{found['peak_mib']:.0f} MiB, {found['grown_mib']:.0f} of them by reading",
        )
        for kind, found in result["kinds"].items()
    ]
    return ("files", "cases", "refused", "rightly accepted", "failures", "slowest", "peak memory"), rows


def kills(result: dict[str, Any]) -> Table:
    """What kill -9 did to a stage, a stage a line."""
    rows: list[Sequence[str]] = [
        (
            stage,
            str(found["kills"]),
            str(found["kills_amid_the_work"]),
            str(found["runs"]),
            f"{found['seconds_without_a_kill']:.1f} s",
            str(len(found["problems"])),
        )
        for stage, found in ((stage, result[stage]) for stage in ("synthesize", "train"))
    ]
    return ("", "kills", "after the first and before the last thing made", "runs", "a run without", "problems"), rows


def _interval(found: dict[str, float] | None) -> str:
    return Interval(**found).words if found else ""


def unlabelled(result: dict[str, Any]) -> Table:
    """A way to label a line: medians over the seeds, and where those lie."""
    rows: list[Sequence[str]] = []
    for row in result["rows"]:
        runs, trained = row["runs"], [run["global"] for run in row["runs"] if "global" in run]
        if row["labels"] != "labelled":
            figures = [spread([run[key] for run in runs]) for key in ("right", "left_out", "f1", "near")]
        elif trained:
            figures = ["–"] * 4
        else:
            continue
        rows.append((LABELLED_BY[row["labels"]], *figures, spread(trained) if trained else "–"))
    head = ("labels by", "right", "left out", "classes held, F1", "counts within 10%", "global model")
    return head, rows


def stopping(result: dict[str, Any]) -> Table:
    """A row a setting, and the middle of all."""
    head = ("setting", "foretold", "measured", "off", "a class", "lost", "seconds", "saved")
    rows: list[Sequence[str]] = [_row(setting) for setting in result["settings"]]
    off, lost, saved = ([setting[name] for setting in result["settings"]] for name in ("error", "lost", "saved"))
    worst = f"{max(map(abs, off)):.1f} at most"
    middle = ("", "", "", worst, "", f"{median(lost):.1f}, {max(lost):.1f} at most", "", f"{median(saved):.0%}")
    return head, [*rows, ("all", *middle[1:])]


def _row(setting: dict[str, Any]) -> Sequence[str]:
    foretold, seconds = setting["foretold"], setting["seconds"]
    return (
        f"{setting['level']}, {setting['side']} px, seed {setting['seed']}",
        f"{foretold['accuracy']:.1%} ({foretold['low']:.1%} to {foretold['high']:.1%})",
        f"{setting['measured']:.1%}",
        f"{setting['error']:+.1f}",
        f"{setting['chosen']}",
        f"{setting['lost']:.1f}",
        f"{seconds['stopped']:.0f} of {seconds['all']:.0f}",
        f"{setting['saved']:.0%}",
    )
