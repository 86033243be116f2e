"""How an image is prepared for a global model, in transformers' words: written beside the model, checked with it."""

import math
from pathlib import Path
from typing import Any

from PIL import Image

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.generator.configs import read_config
from fglfast.images.decoding import MOST_SIDE

PROCESSOR = "preprocessor_config.json"
MODEL_HINT = "name a folder written by train"
# Steps that are ours or not at all; one that is absent or null is the processor's own.
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


def processor_config(image_size: int) -> dict[str, Any]:
    """The image processor for a side in pixels: the middle square, resized bicubically, then x / 127.5 - 1."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }


def read_image_size(model_dir: Path) -> int:
    """Side in pixels of the images that a saved classifier was trained at.

    Raises:
        BadInputError: the folder holds no classifier, or one whose processor makes of an image what ours does not: it
            would be judged on other pixels than it learned from. Another filter of resizing, and squashing images to a
            square instead of cropping them, is said, not refused.
    """
    path = model_dir / PROCESSOR
    if not model_dir.is_dir():
        raise BadInputError(f"{model_dir}: there is no such folder", MODEL_HINT)
    try:
        content = read_config(path)
        sides = _sides(content)
        scaling = [content[key] for key in ("image_mean", "image_std")]
    except (BadInputError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{model_dir} holds no image classifier: {path.name} is missing or has no size", MODEL_HINT
        ) from error
    size = sides[0]
    if not isinstance(size, int) or not 1 <= size <= MOST_SIDE or set(sides) != {size}:
        named = " and ".join(map(repr, sides))
        raise BadInputError(f"{path}: sides of {named} pixels; images are made squares of one side", MODEL_HINT)
    squashes = len(sides) == 2
    if squashes:
        why = "images that are not square are squashed by this model's own processor, and cropped here"
        note(f"{path}: {why}; wherever it is used, give it square ones")
    ours = processor_config(size) | {"do_center_crop": not squashes}
    if scaling != [ours[key] for key in ("image_mean", "image_std")]:
        raise BadInputError(
            f"{path}: the model does not take pixels from -1 to 1, as those that train writes do", MODEL_HINT
        )
    for key in STEPS:
        if (said := content.get(key)) not in (None, wanted := ours.get(key, False)):
            raise BadInputError(f"{path}: {key} is {said!r}, and images are prepared with {wanted!r}", MODEL_HINT)
    factor = content.get("rescale_factor")
    if factor is not None and not (
        isinstance(factor, int | float) and math.isclose(factor, ours["rescale_factor"], rel_tol=1e-4)
    ):
        raise BadInputError(f"{path}: rescale_factor is {factor!r}, and pixels are divided by 255", MODEL_HINT)
    if (filtered := content.get("resample")) not in (None, ours["resample"]):
        note(f"{path}: the model learned from images resized by {_filter(filtered)}; here they are resized bicubically")
    return size


def _sides(content: Any) -> tuple[Any, ...]:
    """Height and width that images are squashed to; or what their shorter side becomes, and of what is cut out of them.

    Raises:
        KeyError, TypeError: it says neither.
    """
    size = content["size"]
    if "shortest_edge" in size:
        return (size["shortest_edge"], content["crop_size"]["height"], content["crop_size"]["width"])
    return (size["height"], size["width"])


def _filter(number: Any) -> str:
    """The name of Pillow's resampling filter of a number, else what was given."""
    return next((f"a {each.name.lower()} filter" for each in Image.Resampling if each == number), f"filter {number!r}")
