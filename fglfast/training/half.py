"""Whether a training computes in bfloat16: where the device does, and PyTorch's gradients are numbers."""

import torch
from torch import Tensor, nn

from fglfast.base.errors import UsageError
from fglfast.base.machine import native_bfloat16
from fglfast.training.settings import TrainSettings


def computes_half(settings: TrainSettings, model: nn.Module, size: int, device: torch.device) -> bool:
    """Whether layers of a model, which is on the CPU in any mode, compute in bfloat16, as `precision` asks.

    On a CPU, PyTorch 2.13 leaves the bfloat16 gradient of a strided convolution's weights unwritten where its images
    are of one pixel, as in the last stage of a ResNet at a size of 16 pixels: there `auto` is float32.

    Raises:
        UsageError: bfloat16 is asked for where its gradients are none.
    """
    wanted = settings.precision == "bfloat16" or (settings.precision == "auto" and native_half(device))
    if not wanted or device.type != "cpu" or not _strides_over_one_pixel(model, size):
        return wanted
    if settings.precision == "bfloat16":
        raise UsageError(
            f"precision bfloat16: at {size} pixels {settings.arch} comes down to single pixels, of which a CPU's "
            "gradients are none",
            "use float32, or larger images",
        )
    return False


def native_half(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 itself: a GPU from compute capability 8.0 on; older ones emulate it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return native_bfloat16()


@torch.no_grad()
def _strides_over_one_pixel(model: nn.Module, size: int) -> bool:
    """Whether a convolution with a stride and a border sees images of one pixel; the model is left as it was."""
    found: list[bool] = []

    def look(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        bordered = max(layer.stride) > 1 and max(layer.kernel_size) > 1
        found.append(bordered and given[0].shape[-2:] == (1, 1))

    hooks = [layer.register_forward_pre_hook(look) for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    training = model.training
    try:
        model.eval()(pixel_values=torch.zeros(1, 3, size, size))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return any(found)
