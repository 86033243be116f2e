"""Clients' uploads for inversion: those that were sent, and those that would be."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fglfast.base.console import note
from fglfast.base.errors import MissingExtraError
from fglfast.client.captions import ATTRIBUTES, caption_all, find_captioner
from fglfast.client.privacy import Budget
from fglfast.client.private_prompts import private_instances
from fglfast.client.prompts import instance_level_prompts
from fglfast.generator.text import Prompts, load_prompts, native_image_size, with_domain
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.attributes import descriptions
from fglfast.images.labelled import LabelledImages
from fglfast.lab.audit.inversion import Prompt, Upload, Vocabulary, invert
from fglfast.lab.audit.records import Inversion
from fglfast.payload import Payload

EPSILONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # with the default delta


@dataclass(frozen=True)
class Sender:
    """A client: all its images, what each shows, how it words that, and the payload that it sent, if it did."""

    images: LabelledImages
    captions: list[str]
    wording: Prompts
    payload: Payload | None


def describe_sender(
    images: LabelledImages,
    payload: Payload | None,
    model: Path,
    captions: str = ATTRIBUTES,
    domain: str | None = None,
    template: str | None = None,
) -> Sender:
    """Caption and word a client's images as `fglfast embed` does; where its payload says how, that counts."""
    if payload is not None:
        domain, template = payload.header.domain, payload.header.template or template
    described = caption_all(images, find_captioner(captions, native_image_size(model)))
    wording = load_prompts(model, domain)
    if template is not None:
        level = "instance_level" if "{caption}" in template else "class_level"
        wording = wording.model_copy(update={level: with_domain(template, domain)})
    return Sender(images, described, wording, payload)


def read_uploads(senders: Sequence[Sender], model: Path) -> list[Inversion]:
    """Invert what a federation's clients sent; then what they would send at instance level, without noise and with.

    The attacker knows how each client words its prompts.
    """
    encoder = TextEncoder.load(model)
    vocabularies = _vocabularies(senders, encoder)
    found = []
    if all(sender.payload for sender in senders):
        header = next(sender.payload.header for sender in senders if sender.payload)
        level, budget = header.prompt_level, header.privacy
        read = invert(zip((_sent(sender, encoder) for sender in senders), vocabularies, strict=True))
        if level == "instance" and not budget and read.right < read.prompts:
            hint = "if embed was given --captions or --template, give audit the same"
            missed = f"{read.prompts - read.right} of {read.prompts} prompts"
            note(f"{missed} were not found in the upload, though nothing hides them: {hint}")
        found.append(Inversion(level=level, sent=True, epsilon=budget.epsilon if budget else None, found=read))
    for epsilon in (None, *EPSILONS):
        try:
            would = invert(zip(_would_send(senders, encoder, epsilon), vocabularies, strict=True))
        except MissingExtraError as error:
            note(f"the inversion of noised embeddings is left out: {error.message} ({error.hint})")
            break
        found.append(Inversion(level="instance", sent=False, epsilon=epsilon, found=would))
    return found


def _vocabularies(senders: Sequence[Sender], encoder: TextEncoder) -> list[Vocabulary]:
    """What an attacker tries on each sender; those who word alike share it."""
    alike = defaultdict[str, list[Sender]](list)
    for sender in senders:
        alike[sender.wording.model_dump_json()].append(sender)
    made = {wording: Vocabulary(_prompts(own), encoder) for wording, own in alike.items()}
    return [made[sender.wording.model_dump_json()] for sender in senders]


def _prompts(senders: Sequence[Sender]) -> Mapping[int, Sequence[str]]:
    """Of each class: its name, the measured words, and its images' captions: the truth is among them."""
    prompts, templates = {}, senders[0].wording
    for label, name in enumerate(senders[0].images.class_names):
        captions = set(descriptions())
        for sender in senders:
            captions |= {sender.captions[row] for row in np.flatnonzero(sender.images.labels == label)}
        described = (templates.instance_level.format(label=name, caption=caption) for caption in sorted(captions))
        prompts[label] = [templates.class_level.format(label=name), *described]
    return prompts


def _truth(sender: Sender, level: str) -> Counter[Prompt]:
    templates = sender.wording
    names, labels = sender.images.class_names, sender.images.labels.tolist()
    if level == "class":
        return Counter((label, templates.class_level.format(label=names[label])) for label in labels)
    described = zip(labels, sender.captions, strict=True)
    return Counter((row, templates.instance_level.format(label=names[row], caption=text)) for row, text in described)


def _sent(sender: Sender, encoder: TextEncoder) -> Upload:
    payload = sender.payload
    assert payload is not None
    rows = payload.embeddings if payload.embeddings is not None else encoder.encode(payload.prompts())
    return Upload(rows, payload.labels, _truth(sender, payload.header.prompt_level))


def _would_send(senders: Sequence[Sender], encoder: TextEncoder, epsilon: float | None) -> Iterator[Upload]:
    for sender in senders:
        names, labels = sender.images.class_names, sender.images.labels.tolist()
        template, truth = sender.wording.instance_level, _truth(sender, "instance")
        if epsilon is None:
            rows = instance_level_prompts(sender.captions, labels, names, template)
            embeddings = encoder.encode(encoder.tokenize([row.prompt for row in rows]))
            yield Upload(embeddings.astype(np.float16), np.array([row.label for row in rows]), truth)
        else:
            budget = Budget(epsilon=epsilon)
            noisy = private_instances(sender.captions, labels, names, template, encoder, budget)
            yield Upload(noisy.embeddings, noisy.labels, truth)
