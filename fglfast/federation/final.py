"""A method's finished model: saved with its prototypes, sent to the clients, adapted by each to itself."""

from pathlib import Path

from safetensors.torch import load_file
from transformers import PreTrainedModel

from fglfast.federation.federation import Federation
from fglfast.federation.records import Adapted
from fglfast.federation.wire import Weights
from fglfast.training.model import has_linear_head, save_model
from fglfast.training.prototypes import Prototypes, load_prototypes, save_prototypes, synthetic_prototypes
from fglfast.training.results import WEIGHTS
from fglfast.training.settings import AdaptSettings


class Final:
    """A finished model's folder.

    Args:
        folder: where it lies, or will.
        model: of its architecture; its weights are used as a place to load others into.
        image_size: side in pixels of what it sees.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, image_size: int) -> None:
        self.folder, self.model, self.image_size = folder, model, image_size

    @property
    def exists(self) -> bool:
        """Whether the method ended with one model."""
        return (self.folder / WEIGHTS).exists()

    def save(self, weights: Weights, synthetic: Path | None) -> None:
        """Write the model, with prototypes if it learned from a folder of synthetic images."""
        self.model.load_state_dict(weights)
        if synthetic is not None and has_linear_head(self.model):
            save_prototypes(synthetic_prototypes(self.model, synthetic, self.image_size), self.folder)
        save_model(self.model, self.folder, self.image_size)

    def deliver(self, federation: Federation, left_out: tuple[str, ...]) -> int:
        """Send it to every member but those left out; returns how many kept it."""
        return federation.deliver(self._weights(), left_out, self._prototypes())

    def adapt(self, federation: Federation, asked: AdaptSettings, left_out: tuple[str, ...]) -> Adapted | None:
        """What members say of it before and after adapting it; None if it has no prototypes."""
        prototypes = self._prototypes()
        return federation.adapt(self._weights(), prototypes, asked, left_out) if prototypes else None

    def _weights(self) -> Weights:
        return dict(load_file(self.folder / WEIGHTS))

    def _prototypes(self) -> Prototypes | None:
        return load_prototypes(self.folder, self.model)
