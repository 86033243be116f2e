"""A folder of synthetic images beside private and held-out ones, as a classifier sees them."""

from pathlib import Path

from torch import Tensor

from fglfast.lab.audit.copies import Copies, Images, SuspectedCopy, search
from fglfast.shards.description import read_description
from fglfast.shards.index import SyntheticImages, read_index
from fglfast.training.evaluate import open_classifier
from fglfast.training.predict import features


def find_copies(
    synthetic: Path, judge: Path, private_N3SS: Tensor, held_out_M3SS: Tensor
) -> tuple[Copies, list[SuspectedCopy]]:
    """Search private images for copies in a synthetic data set.

    Args:
        synthetic: folder of `synthesize`.
        judge: a classifier that saw no private image; all images are at its size.
        private_N3SS: uint8.
        held_out_M3SS: images of the same kind that nothing was made of.

    Raises:
        BadInputError, IncompleteError: a folder cannot be used.
    """
    model, _, size = open_classifier(judge)
    description = read_description(synthetic)
    index = read_index(synthetic, description)
    synthetic_K3SS = SyntheticImages(index, description.image_size, size)[range(len(index))]
    pixels = (synthetic_K3SS, private_N3SS, held_out_M3SS)
    made, private, held_out = (Images(some, features(model, some)) for some in pixels)
    return search(made, private, held_out)
