"""The rows of a routed payload: each class prompt as the server encodes it, changed as the client's routing says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fglfast.base.errors import BadInputError
from fglfast.generator.inventory import load_inventory
from fglfast.generator.text import load_prompts
from fglfast.payload import Limits, Payload
from fglfast.payload.read import FEWER
from fglfast.synthesis.class_rows import ClassRows


class Router:
    """Makes the embeddings of routed payloads, of the adapters that clients were given and a model's text side."""

    def __init__(self, model: Path, inventory: Path, limits: Limits | None = None) -> None:
        self.model, self.file, self.limits = model, inventory, limits or Limits()
        self.class_rows = ClassRows(model)
        self.inventory = load_inventory(inventory, self.class_rows.fingerprint)
        self.fingerprint = self.inventory.fingerprint()

    def rows(self, payload: Payload) -> Payload:
        """The payload with its embeddings beside its routing; one that is not routed as it is.

        Raises:
            BadInputError: it was routed by another inventory, or its rows take more memory than the limit.
        """
        if payload.routes is None:
            return payload
        header, description = payload.header, self.inventory.description
        who = f"client {header.client!r}"
        if header.inventory != self.fingerprint:
            problem = f"{who}: routed by inventory {str(header.inventory)[:12]}, and {self.file.name} is"
            raise BadInputError(f"{problem} {self.fingerprint[:12]}", "give the file that the clients were given")
        if payload.routes.shape != self.inventory.route_shape:
            problem = f"{who}: routing of shape {payload.routes.shape}, not {self.inventory.route_shape}"
            raise BadInputError(problem, "ask the client to embed again")
        if (wanted := 2 * len(payload.labels) * description.length * description.width) > self.limits.max_bytes:
            problem = f"{who}: its rows take {wanted} bytes, more than the limit of {self.limits.max_bytes}"
            raise BadInputError(problem, FEWER)
        wording = load_prompts(self.model, header.domain).class_level
        prompts = [wording.format(label=header.class_names[label]) for label in payload.labels.tolist()]
        logits_1RH = torch.from_numpy(payload.routes.astype(np.float32))[None]
        return replace(payload, embeddings=np.stack([self._row(prompt, logits_1RH) for prompt in prompts]))

    @torch.no_grad()
    def _row(self, prompt: str, logits_1RH: torch.Tensor) -> NDArray[np.float16]:
        """One embedding [L,D]; alone, so that what stands beside it changes no bit of it."""
        text_1LD = torch.from_numpy(self.class_rows.encoded(prompt)[1])[None]
        row_LD = self.inventory(text_1LD, logits_1RH)[0].clamp(-65504, 65504).numpy().astype(np.float16)
        return np.asarray(row_LD)
