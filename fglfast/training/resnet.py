"""A trained ResNet, read in plain PyTorch: ready in the second that importing PyTorch takes.

transformers is the owner of what it reads, its config and the names of its weights, and takes seconds more to import
what could read them. Whatever is not plainly a ResNet of that form is left to it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from fglfast.base.config import Settings
from fglfast.base.names import ClassNames
from fglfast.base.untrusted import loading
from fglfast.generator.configs import announced, check_folder, read_config
from fglfast.generator.outline import outlined
from fglfast.training.results import WEIGHTS

REDUCTION = 4  # of channels inside a bottleneck


class ResNetConfig(Settings):
    """What of a config.json shapes the network; a config that says more of it is none of these.

    Attributes:
        architectures: the class that transformers reads it by.
        id2label: names of the classes by label.
        layer_type: two convolutions of 3x3, or one between two of 1x1 (He et al., arXiv 1512.03385).
        embedding_size: channels of the first convolution.
        hidden_sizes: channels of each stage.
        depths: blocks of each stage.
        hidden_act: the activation.
        num_channels: of an image.
        downsample_in_first_stage: whether the first stage halves height and width, as all others do.
        downsample_in_bottleneck: whether a bottleneck does so in its first convolution instead of its second.
        problem_type: what the classes are; several at once are not ours.
    """

    architectures: tuple[Literal["ResNetForImageClassification"]]
    id2label: dict[int, str]
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    embedding_size: int = Field(gt=0)
    hidden_sizes: tuple[int, ...] = Field(min_length=1)
    depths: tuple[int, ...] = Field(min_length=1)
    hidden_act: Literal["relu"] = "relu"
    num_channels: Literal[3] = 3
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False
    problem_type: None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of their labels."""
        return TypeAdapter(ClassNames).validate_python([self.id2label[label] for label in range(len(self.id2label))])


@dataclass(frozen=True)
class Answer:
    """The logits of each class [B,K], by transformers' name."""

    logits: Tensor


class Convolution(nn.Module):
    """A convolution and its batch normalisation."""

    def __init__(self, channels: int, into: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, into, side, stride, padding=side // 2, bias=False)
        self.normalization = nn.BatchNorm2d(into)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B,C,H,W] to [B,C',H',W']."""
        found: Tensor = self.normalization(self.convolution(images))
        return found


class Block(nn.Module):
    """Convolutions and what passes them by."""

    def __init__(self, config: ResNetConfig, channels: int, into: int, stride: int) -> None:
        super().__init__()
        plain = channels == into and stride == 1
        self.shortcut = nn.Identity() if plain else Convolution(channels, into, 1, stride)
        if config.layer_type == "basic":
            layers = [Convolution(channels, into, 3, stride), Convolution(into, into, 3)]
        else:
            within, strides = into // REDUCTION, (1, stride)
            first, second = reversed(strides) if config.downsample_in_bottleneck else strides
            layers = [
                Convolution(channels, within, 1, first),
                Convolution(within, within, 3, second),
                Convolution(within, into, 1),
            ]
        self.layer = nn.ModuleList(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B,C,H,W] to [B,C',H',W']."""
        found = images
        for layer in self.layer[:-1]:
            found = layer(found).relu()
        summed: Tensor = self.layer[-1](found) + self.shortcut(images)
        return summed.relu()


class ResNet(nn.Module):
    """As transformers' ResNetForImageClassification, weights by the same names."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        widths = (config.embedding_size, *config.hidden_sizes)
        self.resnet = nn.Module()
        self.resnet.embedder = nn.Module()
        self.resnet.embedder.embedder = Convolution(config.num_channels, widths[0], 7, stride=2)
        self.resnet.encoder = nn.Module()
        self.resnet.encoder.stages = nn.ModuleList()
        for stage, (channels, into, depth) in enumerate(zip(widths, widths[1:], config.depths, strict=False)):
            stride = 2 if stage or config.downsample_in_first_stage else 1
            layers = nn.Module()
            layers.layers = nn.Sequential(
                Block(config, channels, into, stride), *(Block(config, into, into, 1) for _ in range(depth - 1))
            )
            self.resnet.encoder.stages.append(layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], len(config.id2label)))

    def forward(self, pixel_values: Tensor) -> Answer:
        """Of images [B,3,S,S] from -1 to 1."""
        ours: Any = self.resnet
        found = nn.functional.max_pool2d(ours.embedder.embedder(pixel_values).relu(), 3, stride=2, padding=1)
        for stage in ours.encoder.stages:
            found = stage.layers(found)
        return Answer(self.classifier(nn.functional.adaptive_avg_pool2d(found, 1)))


def read_resnet(folder: Path) -> tuple[ResNet, tuple[str, ...]] | None:
    """A saved ResNet and its classes, in the order of their labels; None of whatever is not plainly one.

    Raises:
        BadInputError: the folder leads out of itself, asks for code, or its config asks for more than its weights fill.
    """
    check_folder(folder)
    content = read_config(folder / "config.json")
    if content.get("model_type") != "resnet" or not (folder / WEIGHTS).exists():
        return None
    try:
        config = ResNetConfig.model_validate(
            {key: value for key, value in content.items() if key in ResNetConfig.model_fields}
        )
        names = config.class_names
    except (ValidationError, KeyError):
        return None
    with outlined(announced(folder), folder):
        network = ResNet(config)
    with loading(folder):
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    if _shapes(network.state_dict()) != _shapes(weights):
        return None
    network.load_state_dict(weights, assign=True)
    return network, names


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in weights.items()}
