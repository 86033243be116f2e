"""An architecture from a file, tried on two images before any is decoded."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fglfast.base.errors import FglError, UsageError
from fglfast.base.limits import as_limit
from fglfast.base.wording import first_line
from fglfast.training.model import classifier_of, config_of
from fglfast.training.settings import ARCHITECTURES, read_json_object

IMAGES = 2  # batch normalisation needs more than one


def check_takes(arch: str, class_names: Sequence[str], size: int) -> None:
    """Check that a network of an architecture takes images of a side in pixels and tells the classes apart.

    PyTorch's meta device computes shapes alone; a network that it cannot follow is tried on the CPU. The built-in
    architectures take any size; another is the path of a JSON config.

    Raises:
        UsageError: it does not, or the file is not a usable config.
    """
    if arch in ARCHITECTURES:
        return
    config = config_of(arch, class_names)
    wanted = read_json_object(Path(arch), "model config").get("image_size")
    if isinstance(wanted, int) and wanted != size:
        raise UsageError(
            f"{arch} takes images of {wanted} pixels, not {size}",
            f"set image_size to {wanted}, or change the config",
        )
    with torch.random.fork_rng(devices=[]):
        found = _outputs(config, arch, size)
    if found != [IMAGES, len(class_names)]:
        raise UsageError(
            f"{arch}: of {IMAGES} images its network says {found} numbers, not [{IMAGES}, {len(class_names)}], one for "
            "each class",
            "use a classifier whose last layer has as many outputs as id2label has classes",
        )


def _outputs(config: Any, arch: str, size: int) -> list[int]:
    """The shape of what a network of a config says of two images."""
    with suppress(Exception):  # where tensors have no values, others' networks may raise anything
        return _tried(config, arch, size, "meta")
    try:
        return _tried(config, arch, size, "cpu")
    except FglError:
        raise
    except Exception as error:  # each network raises its own kind
        if as_limit(error):
            raise
        raise UsageError(
            f"{arch}: its network cannot take images of {size} pixels ({first_line(error)})",
            "change the config, or train at the image_size that it takes",
        ) from error


def _tried(config: Any, arch: str, size: int, device: str) -> list[int]:
    with torch.device(device), torch.no_grad():
        network: Any = classifier_of(config, arch)
        images_B3SS = torch.zeros(IMAGES, 3, size, size).contiguous(memory_format=torch.channels_last)
        return list(network.train()(pixel_values=images_B3SS).logits.shape)
