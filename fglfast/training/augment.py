"""Images on the device: normalisation and random augmentation of whole batches.

Every draw comes from the seed given with the batch, so a resumed run augments as the first one did.
"""

import torch
from torch import Size, Tensor


def normalise(images: Tensor) -> Tensor:
    """Uint8 [0, 255] to float32 [-1, 1], as the saved image processor does; floats are that already."""
    return images if images.is_floating_point() else images.float().div_(127.5).sub_(1.0)


class Augmentation:
    """Random crop, mirror and erasing of a batch on its own device.

    The draws are kornia's and so is the result, to the bit; but the images are moved once, while they are bytes.
    Kornia pads, crops, mirrors and erases all of them one after the other, in float32, which takes about twice as long.

    Args:
        image_size: side in pixels.
        crop_padding: pixels the crop may move each way, the border reflected; None for a sixteenth of the
            side, 0 for no crop.
        flip: mirror half of the images.
        erasing: chance that a rectangle of 2 to 20% of an image is set to grey.
    """

    def __init__(self, image_size: int, crop_padding: int | None, flip: bool, erasing: float) -> None:
        self.padding = max(1, image_size // 16) if crop_padding is None else min(crop_padding, image_size - 1)
        self.image_size, side, padding = image_size, (image_size, image_size), self.padding
        from kornia import augmentation  # here, as only training needs it, and it takes long

        self.crop = augmentation.RandomCrop(side, padding=padding, padding_mode="reflect") if padding else None
        self.flip = augmentation.RandomHorizontalFlip() if flip else None
        self.erase = augmentation.RandomErasing(p=erasing, scale=(0.02, 0.2)) if erasing else None

    def __call__(self, images_B3SS: Tensor, seed: int) -> Tensor:
        """Normalise and augment a batch with the draws of `seed`; the global generators are left as they were.

        From uint8, or from float32 that is normalised already, to float32 [B,3,S,S].
        """
        shape, device = images_B3SS.shape, images_B3SS.device
        # On the CPU, wherever the images are; a GPU's generator is left alone.
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            drawn = {stage: stage.forward_parameters(shape) for stage in (self.crop, self.flip, self.erase) if stage}
        if self.crop or self.flip:
            images_B3SS = images_B3SS.flatten(2).gather(2, self._sources(shape, device, drawn)).view(shape)
        images_B3SS = normalise(images_B3SS)
        if self.erase:
            images_B3SS = images_B3SS.masked_fill(_rectangles(shape, device, drawn[self.erase]), 0.0)
        return images_B3SS

    def _sources(self, shape: Size, device: torch.device, drawn: dict[object, dict[str, Tensor]]) -> Tensor:
        """Which pixel of its image each pixel is taken from: int64 [B,3,S*S], the same in every channel."""
        images, channels, side, _ = shape
        rows_BS = columns_BS = torch.arange(side, device=device).expand(images, side)
        if self.crop:
            corner_B2 = drawn[self.crop]["src"][:, 0].long() - self.padding  # x, y
            rows_BS, columns_BS = (_reflected(corner_B2[:, [axis]].to(device) + rows_BS, side) for axis in (1, 0))
        if self.flip:
            mirrored_B1 = drawn[self.flip]["batch_prob"][:, None].to(device) > 0.5
            columns_BS = torch.where(mirrored_B1, columns_BS.flip(1), columns_BS)
        sources_BSS = rows_BS.unsqueeze(2) * side + columns_BS.unsqueeze(1)
        return sources_BSS.view(images, 1, side * side).expand(images, channels, side * side)


def _reflected(places: Tensor, side: int) -> Tensor:
    """Places outside of 0 to side - 1, mirrored at the edge pixels."""
    places = places.abs()
    return torch.where(places < side, places, 2 * (side - 1) - places)


def _rectangles(shape: Size, device: torch.device, drawn: dict[str, Tensor]) -> Tensor:
    """What is erased: bool [B,1,S,S]."""
    place_S, names = torch.arange(shape[2], device=device), ("xs", "ys", "widths", "heights", "batch_prob")
    x_B1, y_B1, width_B1, height_B1, chosen_B1 = (drawn[name][:, None].to(device) for name in names)
    columns_BS = (place_S >= x_B1) & (place_S < x_B1 + width_B1)
    rows_BS = (place_S >= y_B1) & (place_S < y_B1 + height_B1) & (chosen_B1 > 0.5)
    return (rows_BS.unsqueeze(2) & columns_BS.unsqueeze(1)).unsqueeze(1)
