"""A client's images and an engine to findings; everything stays in memory."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

from fglfast.base.config import Seed, Settings
from fglfast.base.console import Progress
from fglfast.base.errors import BadInputError
from fglfast.client.captions import ATTRIBUTES
from fglfast.client.embed import WordsLevel, embed
from fglfast.engine.build import Engine
from fglfast.images.labelled import LabelledImages
from fglfast.lab.probe.findings import ClassImages, Pixels, judge
from fglfast.lab.probe.verdict import ClassFinding, Findings
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.draw import Drawer
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import plan_synthesis
from fglfast.training.batches import generator

LEAST = 32  # own images of a class: of the 16 that are held out, fewer would leave no room between well and not
MOST_SIDE = 64  # pixels of what is compared and shown


class ProbeSettings(Settings):
    """What is drawn: the prompts as `embed` makes them, and how many images.

    Attributes:
        images: the most of each kind (drawn, own, held out) that are compared of a class.
        prompt_level: one prompt a class, or one a caption.
        template: overrides the model's prompt template.
        captions: of instance-level prompts; see `find_captioner`.
        domain: a word for all images.
        seed: of which images, and of the noise.
    """

    images: int = 64
    prompt_level: WordsLevel = "class"
    template: str | None = None
    captions: str = ATTRIBUTES
    domain: str | None = None
    seed: Seed = 0


@dataclass(frozen=True)
class Probed:
    """The findings, and what they were found on."""

    findings: Findings
    compared: tuple[ClassImages, ...]


def check_enough(dataset: LabelledImages) -> None:
    """Refuse, before an engine is built, images of which no class can have a verdict.

    Raises:
        BadInputError: no class has enough.
    """
    if (most := dataset.counts().max()) < LEAST:
        hint = f"a verdict needs {LEAST} images of a class"
        raise BadInputError(f"{dataset.source}: no class has more than {most} images", hint)


def probe(engine: Engine, sampling: Sampling, dataset: LabelledImages, asked: ProbeSettings) -> Probed:
    """Draw a few images of each class that the client holds and compare them with its own.

    Raises:
        BadInputError: no class has enough images, or the captions cannot be had.
        UsageError: the template or the domain is refused.
        FglError: the generator draws nothing but blank images.
    """
    check_enough(dataset)
    counts = dataset.counts()
    chosen = {label: _choose(dataset, label, asked) for label in np.flatnonzero(counts >= LEAST).tolist()}
    pixels, labels = draw(engine, sampling, dataset.select(np.concatenate(list(chosen.values()))), asked)
    side = engine.build.image_size
    compared = {}
    for label, rows in chosen.items():
        own, half = shrink(np.stack([dataset.pixels(row, side) for row in rows.tolist()])), len(rows) // 2
        parts = own[:half], own[half:], pixels[labels == label][:half]
        compared[label] = ClassImages(dataset.class_names[label], int(counts[label]), *parts)
    found = dict(zip(compared, judge(list(compared.values())), strict=True))
    findings = [
        found.get(label) or ClassFinding(name=dataset.class_names[label], images=int(counts[label]))
        for label in np.flatnonzero(counts).tolist()
    ]
    return Probed(Findings(classes=tuple(findings)), tuple(compared.values()))


def draw(
    engine: Engine, sampling: Sampling, dataset: LabelledImages, asked: ProbeSettings
) -> tuple[Pixels, NDArray[np.int64]]:
    """Draw `asked.images` of each class that is there, as synthesis draws them from this client's payload.

    Returns:
        Small pixels [N,S,S,3] and classes [N].
    """
    payload = embed(
        dataset, "probe", engine.model, asked.prompt_level, "tokens", asked.template, asked.captions, asked.domain
    )
    merged = merge_payloads([payload])
    settings = SynthesisSettings(images_per_class=asked.images, seed=asked.seed, sampling=sampling)
    plan = plan_synthesis(engine, merged, settings)
    drawer, items = Drawer(engine, plan, Conditioning(merged, engine), sampling), list(plan.items())
    parts = []
    with Progress("draw", len(items)) as progress:
        for some, pixels_BSS3 in drawer.batches(items):
            parts.append(shrink(pixels_BSS3))
            progress.advance(len(some))
    return np.concatenate(parts), np.array([item.label for item in items])


def shrink(pixels_NSS3: Pixels) -> Pixels:
    """Images no larger than `MOST_SIDE`, by averages: own and drawn ones alike, so that both are as sharp."""
    side = pixels_NSS3.shape[1]
    if side <= MOST_SIDE:
        return pixels_NSS3
    pixels_N3SS = torch.from_numpy(pixels_NSS3).permute(0, 3, 1, 2).float()
    small_N3SS = adaptive_avg_pool2d(pixels_N3SS, MOST_SIDE).round().to(torch.uint8)
    return small_N3SS.permute(0, 2, 3, 1).contiguous().numpy()


def _choose(dataset: LabelledImages, label: int, asked: ProbeSettings) -> NDArray[np.int64]:
    """Rows of a class to compare, an even number of them in an order that the seed decides."""
    rows = generator(asked.seed, label).permutation(np.flatnonzero(dataset.labels == label))
    return rows[: 2 * min(asked.images, len(rows) // 2)]
