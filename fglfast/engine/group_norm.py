"""Group normalisation that leaves an image channels last, for GPUs and a compiler that fuses.

PyTorch's own kernel on CUDA knows one layout, and what the compiler makes of it reads an image of this layout group by
group, a few channels of each pixel at a time. Here every channel is summed by itself, and the groups are put together
from those sums: two passes over memory, both in the order in which it lies there.
"""

import torch
from torch import Tensor, nn

from fglfast.engine.layers import replace_layers


class ChannelsLastGroupNorm(nn.Module):
    """What `nn.GroupNorm` computes, in float32 whatever the type of its input.

    Variances are mean squares less squared means: in float32 for 16-bit images, whose own rounding is far coarser.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        """Take over the weights of a group norm that has some."""
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, values_BCx: Tensor) -> Tensor:
        """Normalise [B,C,...], in its own shape and type."""
        exact_BCx = values_BCx.float()
        places = tuple(range(2, values_BCx.dim()))
        mean_BG1, square_BG1 = (
            sums_BC.unflatten(1, (self.groups, -1)).mean(-1, keepdim=True)
            for sums_BC in (exact_BCx.mean(places), exact_BCx.square().mean(places))
        )
        deviation_BG1 = torch.rsqrt((square_BG1 - mean_BG1.square()).clamp(min=0) + self.eps)
        scale_BGC = deviation_BG1 * self.weight.float().unflatten(0, (self.groups, -1))
        shift_BGC = self.bias.float().unflatten(0, (self.groups, -1)) - mean_BG1 * scale_BGC
        scale_BCx, shift_BCx = (each.flatten(1)[(..., *[None] * len(places))] for each in (scale_BGC, shift_BGC))
        normal_BCx: Tensor = exact_BCx * scale_BCx + shift_BCx
        return normal_BCx.to(values_BCx.dtype)


def keep_channels_last(network: nn.Module) -> int:
    """Replace a network's group norms, in place; returns how many."""
    return replace_layers(
        network, lambda layer: isinstance(layer, nn.GroupNorm) and layer.affine, ChannelsLastGroupNorm
    )
