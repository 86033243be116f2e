"""An inventory of adapters learned from public images, and what mixes it from private ones: the generator's own loss.

The server shows the frozen generator its images under public transformations. Each transformation has routing logits of
its own, the adapters are common to all (multi-task learning of Page-Caccia et al., arXiv 2211.03831); who has other
images learns the logits alone. Knows latents, class prompts and adapters; no data set and no payload.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fglfast.generator.inventory import Inventory
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.invert import Examples, fit_text
from fglfast.generator.learning.student import Task
from fglfast.generator.load import Generator

OWN = 3.0  # logit of a transformation's own adapter at the start, the others being 0

SERVER_FIT = FitSettings(
    steps=2000, batch_size=20, learning_rate=0.02, ema_decay=0.97, weight_decay=0.0, warmup_steps=10, seed=13
)
CLIENT_FIT = FitSettings(
    steps=100, batch_size=20, learning_rate=0.2, ema_decay=0.9, weight_decay=0.0, warmup_steps=5, seed=17
)


class RoutedText(nn.Module):
    """Text embeddings of the class prompts of several tasks, by one inventory; class k of task t has number t K + k.

    Args:
        prompts: text embeddings of the class prompts [K,L,D].
        inventory: whose adapters are mixed; learned too unless it is frozen.
        logits: what mixes them at the start, for each task [T,R,H].
    """

    def __init__(self, prompts: Tensor, inventory: Inventory, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("prompts", prompts, persistent=False)
        self.prompts: Tensor
        self.inventory, self.logits = inventory, nn.Parameter(logits.clone())

    def forward(self, classes: Tensor) -> Tensor:
        """Text embeddings [U,L,D] of some classes [U]."""
        count = len(self.prompts)
        text_ULD: Tensor = self.inventory(self.prompts[classes % count], self.logits[classes // count])
        return text_ULD


def learn_inventory(
    generator: Generator,
    task: Task,
    transformed: Sequence[Examples],
    prompts_KLD: Tensor,
    inventory: Inventory,
    settings: FitSettings,
    state: Path,
) -> None:
    """Learn an inventory in place, as `fit_text` does, from images of the same classes under each transformation."""
    adapters, heads = inventory.route_shape
    tasks, device = len(transformed), prompts_KLD.device
    own_T = torch.arange(tasks, device=device) % adapters
    logits_TRH = OWN * nn.functional.one_hot(own_T, adapters).float()[:, :, None].expand(-1, -1, heads)
    classes = [each.classes + number * len(prompts_KLD) for number, each in enumerate(transformed)]
    together = Examples(torch.cat([each.latents for each in transformed]), torch.cat(classes))
    text = RoutedText(prompts_KLD, inventory.to(device), logits_TRH)
    fit_text(generator, task, together, text, settings, state)
    inventory.cpu().requires_grad_(False)


@dataclass(frozen=True)
class Learner:
    """What a client's routing is learned through.

    Attributes:
        generator: frozen.
        task: what its UNet was trained to predict.
        inventory: frozen, where the generator computes.
        prompts: text embeddings of the class prompts [K,L,D].
    """

    generator: Generator
    task: Task
    inventory: Inventory
    prompts: Tensor

    def start(self) -> Tensor:
        """Logits [R,H] that mix all adapters alike."""
        return torch.zeros(self.inventory.route_shape, device=self.prompts.device)

    def texts(self, logits_RH: Tensor) -> Tensor:
        """Text embeddings [K,L,D] of all classes under one routing."""
        with torch.no_grad():
            text_KLD: Tensor = self.inventory(self.prompts, logits_RH.expand(len(self.prompts), -1, -1))
        return text_KLD

    def learn(self, examples: Examples, settings: FitSettings, state: Path) -> Tensor:
        """Logits [R,H] that all classes share; resumes from `state`."""
        text = RoutedText(self.prompts, self.inventory, self.start()[None])
        fit_text(self.generator, self.task, examples, text, settings, state)
        return text.logits.detach()[0]
