"""The audit of single files: a model, a data set, a payload that no `fglfast run` made."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.machine import machine_facts, package_versions
from fglfast.engine.manifest import device_name
from fglfast.generator.text import text_fingerprint
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.lab.audit.copies import Copies, SuspectedCopy, find_copies
from fglfast.lab.audit.likelihood import confidences
from fglfast.lab.audit.records import Attack, Audit, Inversion
from fglfast.lab.audit.roc import roc
from fglfast.lab.audit.uploads import describe_sender, read_uploads
from fglfast.payload import Payload, load_payload
from fglfast.training.batches import read_pixels
from fglfast.training.evaluate import open_classifier


@dataclass(frozen=True)
class Files:
    """What there is to audit.

    Attributes:
        model: folder of a global model.
        members: images that it learned from, or that stand behind what it learned from: PATH[:SPLIT].
        nonmembers: images of the same kind that do not.
        synthetic: folder of synthetic images that the model learned from, or None.
        payload: the upload of the client that holds the members, or None.
        generator: folder of the generator that the payload was embedded with.
        captions: of the members, as they were embedded.
        template: that the payload was embedded with, if not the generator's; one of class level says so itself.
    """

    model: Path
    members: str
    nonmembers: str
    synthetic: Path | None
    payload: Path | None
    generator: Path
    captions: str
    template: str | None


def audit_files(files: Files) -> tuple[Audit, list[SuspectedCopy]]:
    """Attack a model by its loss; search for copies and invert a payload, where they are given.

    Raises:
        BadInputError: a file cannot be used.
    """
    payload = _open_payload(files)
    model, names, size = open_classifier(files.model)
    members, others = (read_dataset(source).named(names) for source in (files.members, files.nonmembers))
    pixels = [read_pixels(images, size, "read") for images in (members, others)]
    others, pixels[1] = _unseen(others, pixels[1], pixels[0])
    pairs_of = zip(pixels, (members, others), strict=True)
    scores = [confidences(model, pixels_N3SS, images.labels) for pixels_N3SS, images in pairs_of]
    inside_N = np.repeat([True, False], [len(members), len(others)])
    copies: Copies | None = None
    pairs: list[SuspectedCopy] = []
    if files.synthetic is not None:
        copies, pairs = find_copies(files.synthetic, files.model, *pixels)
    audit = Audit(
        subject=str(files.model),
        facts={
            "members": f"{files.members}, {len(members)}",
            "other images": f"{files.nonmembers}, {len(others)}",
            "model": f"at {size} pixels",
        },
        attacks=(Attack(model=files.model.name, kind="loss", roc=roc(np.concatenate(scores)[None], inside_N[None])),),
        inversions=tuple(_inversions(files, payload)),
        copies=copies,
        machine=machine_facts(device_name()),
        versions=package_versions(),
    )
    return audit, pairs


def _unseen(others: LabelledImages, pixels_N3SS: Tensor, members_M3SS: Tensor) -> tuple[LabelledImages, Tensor]:
    """The images that are no members: of one that is both, nobody could tell which it is.

    Raises:
        BadInputError: there is none.
    """
    known = {image_3SS.numpy().tobytes() for image_3SS in members_M3SS}
    rows = [row for row, image_3SS in enumerate(pixels_N3SS) if image_3SS.numpy().tobytes() not in known]
    if not rows:
        raise BadInputError("the images that the model has never seen are all among the members", "give others")
    if len(rows) < len(others):
        note(f"{len(others) - len(rows):,} of {len(others):,} images are among the members too, and are left out")
    return others.select(rows), pixels_N3SS[rows]


def _open_payload(files: Files) -> Payload | None:
    """The upload, refused before anything is attacked if another text encoder made it: all read from it were wrong."""
    if files.payload is None:
        return None
    payload = load_payload(files.payload, text_encoder=text_fingerprint(files.generator))
    if payload.routes is not None:
        raise BadInputError(f"{files.payload}: routing, which no audit reads", "leave out --payload")
    return payload


def _inversions(files: Files, payload: Payload | None) -> list[Inversion]:
    if payload is None:
        return []
    members = read_dataset(files.members)
    names = payload.header.class_names
    if set(members.class_names) - set(names):
        problem = f"{files.payload}: {files.members} has classes that it lacks"
        raise BadInputError(problem, "give the images that it was made of")
    images = members.named(names)
    sender = describe_sender(images, payload, files.generator, files.captions, template=files.template)
    return read_uploads([sender], files.generator)
