"""Keys and values of the cross-attention: computed once a prompt, not once a step.

The cross-attention layers of a UNet see the same text at every step. Their key and value weights, side by side, make
one linear layer that is applied to a prompt once; in the UNet each layer then only reads its columns.
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.functional import pad

from fglfast.base.errors import BadInputError


class TextProjection(nn.Module):
    """Text embedding [B,L,D] -> keys and values of all cross-attention layers, side by side [B,L,E].

    Args:
        linear: D -> E.
        pooled: channels of SDXL's pooled embedding, the last row, which passes as it is; 0 for none.
    """

    def __init__(self, linear: nn.Linear, pooled: int) -> None:
        super().__init__()
        self.linear, self.pooled = linear, pooled

    @property
    def width(self) -> int:
        """Columns of the result (E)."""
        return self.linear.out_features

    def forward(self, text: Tensor) -> Tensor:
        """Project every row but the pooled one."""
        if not self.pooled:
            return self.linear(text)  # type: ignore[no-any-return]
        pooled = pad(text[:, -1:, : self.pooled], (0, self.width - self.pooled))
        return torch.cat([self.linear(text[:, :-1]), pooled], dim=1)


class Columns(nn.Module):
    """What stands in the place of a layer's projection: it reads [..., start:stop] of what was projected before."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, projected: Tensor) -> Tensor:
        """Return a view."""
        return projected[..., self.start : self.stop]


def take_projection(unet: UNet2DConditionModel, pooled: int = 0) -> TextProjection:
    """Move the key and value weights out of a UNet, in place, which then takes their products [B,L,E] for text.

    It may be on the meta device.

    Raises:
        BadInputError: its cross-attention is not that of Stable Diffusion.
    """
    weights: list[Tensor] = []
    width = 0
    for layer in unet.modules():
        if not (isinstance(layer, Attention) and layer.is_cross_attention):
            continue
        for name in ("to_k", "to_v"):
            projection = getattr(layer, name)
            if layer.norm_cross is not None or layer.added_kv_proj_dim is not None or projection.bias is not None:
                raise BadInputError("the UNet's cross-attention is not that of Stable Diffusion", "use another model")
            weights.append(projection.weight.detach())
            setattr(layer, name, Columns(width, width + len(projection.weight)))
            width += len(projection.weight)
    if not weights or unet.encoder_hid_proj is not None:
        raise BadInputError("the UNet does not read text as Stable Diffusion's does", "use another model")
    linear = nn.Linear(weights[0].shape[1], width, bias=False, device="meta")
    linear.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
    return TextProjection(linear, pooled)
