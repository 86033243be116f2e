"""What of a model's folder decides its images beside its weights, sampled in some way."""

import hashlib
import json
from pathlib import Path

from pydantic import Field

from fglfast.base.config import Settings
from fglfast.generator.configs import read_optional
from fglfast.generator.kinds import pipeline_name, zeros_for_empty
from fglfast.generator.parts import part
from fglfast.generator.scheduler import scheduler_name
from fglfast.generator.text import Prompts
from fglfast.sampler.schedule import Sampling


class Guide(Settings):
    """Of `model_index.json` and `prompts.json`, what counts; None does not.

    Templates are not among it: they are in the rows that clients send.

    Attributes:
        pipeline: the class in diffusers, which sets some of its solver.
        scheduler: the solver's class, if it is the model's own.
        negative_prompt: sha256 of what guided images are guided away from, and of what those of some domains are.
        zeros_for_empty: whether an empty one is embedded as zeros.
    """

    pipeline: str
    scheduler: str | None = None
    negative_prompt: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    zeros_for_empty: bool | None = None

    @classmethod
    def of(cls, model: Path, sampling: Sampling) -> "Guide":
        """That of a model folder.

        Raises:
            BadInputError: one of its configs cannot be used.
        """
        own = scheduler_name(model) if sampling.scheduler == "model" else None
        if sampling.guidance_scale == 1.0:
            return cls(pipeline=pipeline_name(model), scheduler=own)
        prompts = read_optional(part(model, "prompts.json"), Prompts)
        domains = {domain: one.negative for domain, one in prompts.domains.items() if one.negative is not None}
        return cls(
            pipeline=pipeline_name(model),
            scheduler=own,
            negative_prompt=hashlib.sha256(
                json.dumps([prompts.negative, domains], sort_keys=True).encode()
            ).hexdigest(),
            zeros_for_empty=zeros_for_empty(model),
        )
