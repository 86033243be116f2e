"""One upload of each client's own model, and those models as one classifier: the mean of what they say."""

import math
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from fglfast.base.console import note
from fglfast.federation.federation import Federation
from fglfast.federation.grid import Meter
from fglfast.federation.records import RoundRow
from fglfast.federation.wire import Weights
from fglfast.training.model import write_weights
from fglfast.training.predict import logits_of


class Ensemble(nn.Module):
    """Classifiers of the same classes as one: the architecture of `model`, with the weights of each, at least one."""

    def __init__(self, model: nn.Module, weights: Iterable[Weights]) -> None:
        super().__init__()
        self.models = nn.ModuleList()
        for own in weights:
            self.models.append(deepcopy(model))
            self.models[-1].load_state_dict(own)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Logits [B,K] whose softmax is the mean of the models' softmax outputs; `pixel_values` is [B,3,S,S]."""
        said_MBK = torch.stack([logits_of(model(pixel_values=pixel_values)).log_softmax(1) for model in self.models])
        mean_BK: Any = said_MBK.logsumexp(0) - math.log(len(self.models))
        return ImageClassifierOutput(logits=mean_BK)


def uploaded_models(federation: Federation, fresh: Weights, folder: Path) -> tuple[list[Weights], RoundRow]:
    """The models of clients that train by themselves, for as many epochs as FedAvg has, and upload once.

    They begin with `fresh` and are asked for once: what is in `folder` is read. No client judges them together, as that
    would take sending everybody's model to everybody.

    Raises:
        IncompleteError: too few sent one.
    """
    file = folder / "row.json"
    if not file.exists():
        meter = Meter(federation.grid)
        found = federation.updates("models of their own", fresh, 1, rounds=federation.experiment.rounds.fedavg)
        spent = meter.read()
        for name in [name for name, own in found.items() if not federation.answers_with_numbers(own)]:
            note(f"{name}: its model answers with what are no numbers, and is left out")
            del found[name]
        federation.grid.enough(len(found), "sent a model that answers")
        folder.mkdir(parents=True, exist_ok=True)
        for old in _files(folder):
            old.unlink()
        for number, name in enumerate(sorted(found)):
            write_weights(found[name], folder / f"client-{number:04d}.safetensors")
        silent = (None,) * len(federation.members.all)
        row = RoundRow(round=0, accuracy=None, worst_client=None, by_client=silent, clients=len(found), **spent)
        row.save(file)
    return [load_file(path) for path in _files(folder)], RoundRow.model_validate_json(file.read_bytes())


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("client-*.safetensors"))
