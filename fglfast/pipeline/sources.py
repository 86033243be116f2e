"""What lies behind the paths of a run: other images or another generator under the same names make other results."""

from pathlib import Path
from typing import Any

from fglfast.base.errors import BadInputError
from fglfast.base.files import check_claim, claim
from fglfast.engine.recipe import find_recipe
from fglfast.generator.fingerprints import model_fingerprint
from fglfast.images.labelled import LabelledImages
from fglfast.sampler.guide import Guide

FILE = "sources.json"
WHAT = "results of other images or of another generator"


def generator_facts(recipe: str) -> dict[str, Any]:
    """A recipe's weights, and how it samples them."""
    found = find_recipe(recipe)
    facts, model = found.model_dump(mode="json", include={"image_size", "sampling"}), found.model_folder()
    return (
        facts | {"generator": model_fingerprint(model)} | Guide.of(model, found.sampling).model_dump(exclude_none=True)
    )


def claim_sources(folder: Path, recipe: str, **images: LabelledImages) -> None:
    """Note what a run's results come from; images of another use may be added later.

    Args:
        folder: the run's; as long as no folder is in it there are no results, and nothing is refused.
        recipe: of its generator.
        images: by their use, "private" and the like.

    Raises:
        BadInputError: the folder holds results of others.
    """
    if folder.is_dir() and not any(path.is_dir() for path in folder.iterdir()):
        (folder / FILE).unlink(missing_ok=True)
    claim(folder / FILE, generator_facts(recipe) | _digests(images), WHAT, more=True)


def check_images(folder: Path, **images: LabelledImages) -> None:
    """Refuse images that are not those which a run's results came from, where it has noted them.

    Raises:
        BadInputError: they are others.
    """
    try:
        check_claim(folder / FILE, _digests(images), WHAT, more=True)
    except BadInputError as error:
        raise BadInputError(error.message, "put back the images that were there") from error


def _digests(images: dict[str, LabelledImages]) -> dict[str, str]:
    return {f"set_of_{use}_images": found.digest() for use, found in images.items()}
