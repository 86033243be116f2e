"""Put other layers in the place of a network's own."""

from collections.abc import Callable
from typing import Any

from torch import nn


def replace_layers(network: nn.Module, is_one: Callable[[nn.Module], bool], other: Callable[[Any], nn.Module]) -> int:
    """Replace the layers that are of a kind by what `other` makes of each, in place; returns how many."""
    found = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if is_one(layer)
    ]
    for parent, name, layer in found:
        setattr(parent, name, other(layer))
    return len(found)
