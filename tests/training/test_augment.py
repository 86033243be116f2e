"""The augmentation: kornia's to the bit, keyed by step, on its own device."""

from typing import Any

import numpy as np
import pytest
import torch
from kornia import augmentation
from shard_samples import SIZE
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fglfast.training.augment import Augmentation, normalise
from fglfast.training.batches import step_seed


def test_augmentation_is_keyed_by_epoch_step_and_rank() -> None:
    augment, images = Augmentation(SIZE, None, flip=True, erasing=0.5), torch.rand(32, 3, SIZE, SIZE)
    before = torch.random.get_rng_state()
    once = augment(images, step_seed(0, epoch=1, step=2, rank=0))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    assert torch.equal(once, augment(images, step_seed(0, 1, 2, 0)))
    for other in [(1, 1, 2, 0), (0, 2, 2, 0), (0, 1, 3, 0), (0, 1, 2, 1)]:
        assert not torch.equal(once, augment(images, step_seed(*other)))
    assert once.shape == images.shape
    assert not torch.equal(once, images)


@pytest.mark.parametrize(
    ("padding", "flip", "erasing"), [(None, True, 0.5), (3, False, 0.25), (0, True, 0.9), (SIZE - 1, True, 0.0)]
)
def test_augmentation_is_kornias_to_the_bit(padding: int | None, flip: bool, erasing: float) -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (33, 3, SIZE, SIZE), dtype=np.uint8))
    stages = []
    if padding != 0:
        stages.append(augmentation.RandomCrop((SIZE, SIZE), padding=padding or SIZE // 16, padding_mode="reflect"))
    if flip:
        stages.append(augmentation.RandomHorizontalFlip())
    if erasing:
        stages.append(augmentation.RandomErasing(p=erasing, scale=(0.02, 0.2)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = normalise(images)
        for stage in stages:
            expected = stage(expected)
    assert not torch.equal(expected, normalise(images))
    for pixels in (images, normalise(images)):
        assert torch.equal(Augmentation(SIZE, padding, flip, erasing)(pixels, 7), expected)


class Crossings(TorchDispatchMode):
    """Bytes of each tensor that is copied from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device != made.device:
            self.sizes.append(made.numel() * made.element_size())
        return made


def test_augmentation_on_a_gpu_moves_nothing_but_its_draws() -> None:
    """On a fake one: what is copied there is some numbers an image."""
    augmentation = Augmentation(64, None, flip=True, erasing=0.5)
    with FakeTensorMode(allow_non_fake_inputs=True), Crossings() as crossings:
        images = torch.empty(128, 3, 64, 64, dtype=torch.uint8, device="cuda")
        augmented = augmentation(images, 7)
    assert augmented.device.type == "cuda" and augmented.shape == images.shape
    assert 0 < sum(crossings.sizes) <= 128 * 64


def test_augmentation_can_be_off() -> None:
    images = torch.rand(4, 3, SIZE, SIZE)
    assert torch.equal(Augmentation(SIZE, 0, flip=False, erasing=0.0)(images, 7), images)


def test_normalise_spans_minus_one_to_one() -> None:
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
