"""An audit as one self-contained HTML page."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fglfast.base.files import write_atomic
from fglfast.federation.method_names import TITLES
from fglfast.lab.audit.copies import Copies, SuspectedCopy
from fglfast.lab.audit.inversion import Inverted
from fglfast.lab.audit.records import CONTROL, STRONG, Attack, Audit, Inversion, View
from fglfast.lab.audit.roc import CURVE_FROM
from fglfast.report.render import BLUE, GREY, RED, empty_figure, finished, render, sprite, svg

TITLED = {str(method): words for method, words in TITLES.items()} | {CONTROL: "learned by heart (control)"}
SEEN: dict[View, str] = {"model": "", "updates": ", each client's updates", "upload": ", as uploaded"}
SHARES: tuple[tuple[str, str, Callable[[Inverted], float]], ...] = (
    ("true prompts that are read", BLUE, lambda found: found.found),
    ("true prompts of one image that are read", RED, lambda found: found.lone_found or 0.0),
    ("what is read that is true", GREY, lambda found: found.sure),
)


def title(attack: Attack) -> str:
    """Of the attacked model, for people, and of what the attacker has of it."""
    return TITLED.get(attack.model, attack.model) + SEEN[attack.seen]


def write_page(audit: Audit, pairs: Sequence[SuspectedCopy], out: Path) -> None:
    """Write the page; the same input gives the same bytes."""
    sent = [inversion for inversion in audit.inversions if inversion.sent]
    would = [inversion for inversion in audit.inversions if not inversion.sent]
    rows = [pair.synthetic for pair in pairs], [pair.private for pair in pairs], [pair.held_out for pair in pairs]
    noisy = any(inversion.epsilon for inversion in would)
    view = {
        "audit": audit,
        "title": title,
        "shadows": max((attack.shadows for attack in audit.attacks), default=0),
        "strong": STRONG,
        "roc": svg(partial(draw_roc, audit.attacks)),
        "sent": sent,
        "would": would,
        "inversion": svg(partial(draw_inversion, would)) if noisy else "",
        "distances": svg(partial(draw_distances, audit.copies)) if audit.copies else "",
        "pairs": [sprite(row) for row in rows] if pairs else [],
    }
    write_atomic(out, render("audit_page.html.j2", view))


def draw_roc(attacks: Sequence[Attack]) -> Figure:
    """True against false positive rates of all attacks, both over orders of magnitude."""
    figure, axis = empty_figure(4.2)
    colours = {words: f"C{index}" for index, words in enumerate(dict.fromkeys(map(title, attacks)))}
    for attack in attacks:
        false, true = zip(*attack.roc.curve, strict=True)
        style = ":" if attack.kind == "loss" else "-"
        label = f"{title(attack)}, {attack.kind}"
        axis.plot(false, true, color=colours[title(attack)], linestyle=style, linewidth=1.4, label=label)
    axis.plot([CURVE_FROM, 1], [CURVE_FROM, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    axis.set(xscale="log", yscale="log", xlim=(CURVE_FROM, 1), ylim=(CURVE_FROM, 1))
    axis.set_xlabel("others that are taken for members, share")
    axis.set_ylabel("members that are found, share")
    return finished(figure)


def draw_inversion(inversions: Sequence[Inversion]) -> Figure:
    """What is read of instance-level uploads against epsilon, and without noise."""
    figure, axis = empty_figure(3.2)
    by_epsilon = {inversion.epsilon: inversion.found for inversion in inversions}
    epsilons = [epsilon for epsilon in by_epsilon if epsilon is not None]
    for name, colour, share in SHARES:
        axis.plot(epsilons, [100 * share(by_epsilon[each]) for each in epsilons], color=colour, marker="o", label=name)
        if None in by_epsilon:
            axis.axhline(100 * share(by_epsilon[None]), color=colour, linestyle=":", linewidth=1)
    axis.set(xscale="log", ylim=(0, 102))
    axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axis.minorticks_off()
    axis.set_xlabel("epsilon of each client (dotted: without noise)")
    axis.set_ylabel("%")
    return finished(figure)


def draw_distances(copies: Copies) -> Figure:
    """Synthetic images by their distance to the nearest private and the nearest held-out image."""
    figure, axis = empty_figure(3.2)
    shares = np.linspace(0, 100, len(copies.to_private))
    axis.plot(copies.to_private, shares, color=RED, label="to private images")
    axis.plot(copies.to_held_out, shares, color=BLUE, linestyle="--", label="to held-out images")
    axis.set_xlabel("distance to the nearest, in the classifier's features")
    axis.set_ylabel("synthetic images nearer, %")
    axis.set_ylim(0, 100)
    return finished(figure)
