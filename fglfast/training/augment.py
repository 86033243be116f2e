"""Images on the device: normalisation and random augmentation of whole batches. Knows no files.

Every draw comes from the seed given with the batch, so a resumed run augments as the first one did.
"""

import kornia.augmentation
import torch
from torch import Tensor


def normalise(images: Tensor) -> Tensor:
    """Uint8 [0, 255] to float32 [-1, 1], as the saved image processor does; floats are that already."""
    return images if images.is_floating_point() else images.float().div_(127.5).sub_(1.0)


class Augmentation:
    """Random crop, mirror and erasing of a normalised batch on its own device (kornia).

    Args:
        image_size: side in pixels.
        crop_padding: pixels the crop may move each way, the border reflected; None for a sixteenth of the
            side, 0 for no crop.
        flip: mirror half of the images.
        erasing: chance that a rectangle of 2 to 20% of an image is set to grey.
    """

    def __init__(self, image_size: int, crop_padding: int | None, flip: bool, erasing: float) -> None:
        padding = max(1, image_size // 16) if crop_padding is None else min(crop_padding, image_size - 1)
        stages = []
        if padding:
            stages.append(
                kornia.augmentation.RandomCrop((image_size, image_size), padding=padding, padding_mode="reflect")
            )
        if flip:
            stages.append(kornia.augmentation.RandomHorizontalFlip())
        if erasing:
            stages.append(kornia.augmentation.RandomErasing(p=erasing, scale=(0.02, 0.2)))
        self.stages = stages

    def __call__(self, images_B3SS: Tensor, seed: int) -> Tensor:
        """Augment the batch with the draws of `seed`; the global generators are left as they were."""
        devices = [images_B3SS.device] if images_B3SS.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            for stage in self.stages:
                images_B3SS = stage(images_B3SS)
        return images_B3SS
