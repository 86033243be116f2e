"""A server's public images to an inventory of adapters: chosen, transformed, encoded, learned from."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fglfast.base.config import first_problem
from fglfast.base.console import Progress, note
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import claim, sole
from fglfast.base.wording import some
from fglfast.generator.blocks import load_blocks
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.inventory import Inventory, InventoryHeader, InventorySizes
from fglfast.generator.learning.invert import Examples, check_generator, encode_images
from fglfast.generator.learning.routing import SERVER_FIT, learn_inventory
from fglfast.generator.learning.student import Task
from fglfast.generator.load import Generator, load_generator, own_device, read_shapes
from fglfast.generator.shapes import Shapes
from fglfast.generator.text import load_prompts, native_image_size, text_fingerprint
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.labelled import LabelledImages
from fglfast.images.transformations import TRANSFORMATIONS, transformed

BEGUN = "inventory.json"  # what is learned, in the folder of its checkpoints
ENCODED = 32  # images that the VAE takes at once


class InventorySettings(InventorySizes):
    """How an inventory is learned, beside its sizes.

    Attributes:
        images: of each class, that are shown under each transformation.
        steps: of the optimisation.
        transformations: names of those that the images are shown under.
    """

    images: int = Field(50, ge=1)
    steps: int = Field(SERVER_FIT.steps, ge=1)
    transformations: tuple[str, ...] = tuple(TRANSFORMATIONS)


def make_inventory(dataset: LabelledImages, model: Path, state: Path, settings: InventorySettings) -> Inventory:
    """Learn an inventory for a generator from public images; killed, it goes on from its last checkpoint in `state`.

    Raises:
        UsageError: a transformation is unknown or there twice, the heads do not divide the embedding, or the model is
            SDXL or a blockwise student.
        BadInputError: there are no images, or `state` was begun with other images, another model or other settings.
    """
    names = settings.transformations
    if unknown := [name for name in names if name not in TRANSFORMATIONS]:
        raise UsageError(f"no transformation {some(unknown)}", f"choose from {some(TRANSFORMATIONS, most=20)}")
    if len(set(names)) < len(names) or len(names) < 2:
        raise UsageError("adapters are learned from two transformations or more, each there once", "name others")
    if load_blocks(model).boundaries:
        raise UsageError("no adapters can be learned for a blockwise student", "use its teacher")
    size = native_image_size(model)
    shapes = read_shapes(model, size)
    check_generator(shapes, 1)
    inventory = Inventory(_description(model, shapes, settings))
    generator = load_generator(model, own_device())
    chosen = _chosen(dataset, settings.images)
    held = np.unique(chosen.labels)
    with sole(state, BEGUN):
        pixels_NSS3 = _pixels(chosen, size)
        images = hashlib.sha256(chosen.labels.tobytes() + pixels_NSS3.tobytes()).hexdigest()
        begun = {"images": images, **inventory.description.model_dump(mode="json")}
        claim(state / BEGUN, begun, "adapters from other images, another model or other settings")
        examples = _examples(generator, pixels_NSS3, np.searchsorted(held, chosen.labels), names)
        prompts_KLD = _prompts(model, [dataset.class_names[label] for label in held])
        fit = SERVER_FIT.model_copy(update={"steps": settings.steps})
        task, device = Task.of_model(model), generator.projection.linear.weight.device
        learn_inventory(generator, task, examples, prompts_KLD.to(device), inventory, fit, state)
    return inventory


def _description(model: Path, shapes: Shapes, settings: InventorySettings) -> InventoryHeader:
    sizes = {key: getattr(settings, key) for key in InventorySizes.model_fields}
    try:
        return InventoryHeader(
            text_encoder=text_fingerprint(model),
            model=weights_fingerprint(model),
            length=shapes.text_length,
            width=shapes.text_width,
            transformations=settings.transformations,
            **sizes,
        )
    except ValidationError as error:
        raise UsageError(f"--{first_problem(error)}", "choose a number of heads that does") from error


def _chosen(dataset: LabelledImages, images: int) -> LabelledImages:
    """The first images of each class."""
    rows = [np.flatnonzero(dataset.labels == label)[:images] for label in range(len(dataset.class_names))]
    return dataset.select(np.concatenate(rows))


def _pixels(dataset: LabelledImages, size: int) -> NDArray[np.uint8]:
    if not len(dataset):
        raise BadInputError(f"{dataset.source}: no image", "give public images")
    return np.stack([dataset.pixels(row, size) for row in range(len(dataset))])


def _examples(
    generator: Generator, pixels_NSS3: NDArray[np.uint8], classes_N: NDArray[np.int64], names: tuple[str, ...]
) -> list[Examples]:
    """The images under each transformation, as latents; one that changes none of them is left out but for the first."""
    found: list[Examples] = []
    seen: set[bytes] = set()
    with Progress("latents", len(names) * len(pixels_NSS3)) as progress:
        for name in names:
            changed_NSS3 = np.stack([transformed(image, name) for image in pixels_NSS3])
            content = hashlib.sha256(changed_NSS3.tobytes()).digest()
            if content in seen:
                note(f"{name}: leaves these images as another transformation does, and is left out")
                progress.advance(len(pixels_NSS3))
                continue
            seen.add(content)
            latents_NCHW = encode_images(generator, _batches(changed_NSS3, progress))
            found.append(Examples(latents_NCHW, torch.from_numpy(classes_N)))
    return found


def _batches(pixels_NSS3: NDArray[np.uint8], progress: Progress) -> Iterator[NDArray[np.uint8]]:
    for batch in np.array_split(pixels_NSS3, -(-len(pixels_NSS3) // ENCODED)):
        yield batch
        progress.advance(len(batch))


def _prompts(model: Path, names: list[str]) -> torch.Tensor:
    """Text embeddings [K,L,D] of the class prompts."""
    encoder, wording = TextEncoder.load(model), load_prompts(model).class_level
    return torch.from_numpy(encoder.encode(encoder.tokenize([wording.format(label=name) for name in names])))
