"""What tells one model from another: sha256 of all that decides how its networks work, and how images are drawn."""

import hashlib
import json
from pathlib import Path

from pydantic import Field

from fglfast.base.config import Settings
from fglfast.base.files import file_digest
from fglfast.generator.blocks import load_blocks
from fglfast.generator.configs import read_optional
from fglfast.generator.kinds import pipeline_name, zeros_for_empty
from fglfast.generator.parts import PARTS, part
from fglfast.generator.scheduler import scheduler_config
from fglfast.generator.text import Prompts
from fglfast.generator.weights import counted_files


class Guide(Settings):
    """What of a model's folder decides its images beside its weights: parts of `model_index.json` and `prompts.json`.

    Templates are not among it: they are in the rows that clients send.

    Attributes:
        pipeline: the class in diffusers, which sets some of its solver.
        scheduler: the solver's class.
        negative_prompt: sha256 of what images are guided away from, and those of some domains instead.
        zeros_for_empty: whether an empty one is embedded as zeros.
    """

    pipeline: str
    scheduler: str
    negative_prompt: str = Field(pattern="^[0-9a-f]{64}$")
    zeros_for_empty: bool

    @classmethod
    def of(cls, model: Path) -> "Guide":
        """That of a model folder.

        Raises:
            BadInputError: one of its configs cannot be used.
        """
        prompts = read_optional(part(model, "prompts.json"), Prompts)
        own = {domain: one.negative for domain, one in prompts.domains.items() if one.negative is not None}
        return cls(
            pipeline=pipeline_name(model),
            scheduler=scheduler_config(model)["_class_name"],
            negative_prompt=hashlib.sha256(json.dumps([prompts.negative, own], sort_keys=True).encode()).hexdigest(),
            zeros_for_empty=zeros_for_empty(model),
        )


def weights_fingerprint(folder: Path) -> str:
    """sha256 over every weight and config file of the model's parts, names included."""
    digest = hashlib.sha256()
    for name in PARTS:
        for path in counted_files(part(folder, name)):
            digest.update(f"{name}/{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def model_fingerprint(model: Path) -> str:
    """As `weights_fingerprint`, of all blocks of a model: what its engine's key says."""
    blocks = load_blocks(model)
    return blocks.fingerprint([weights_fingerprint(folder) for folder in blocks.folders(model)])
