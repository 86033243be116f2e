"""What tells the weights of one model from another's: sha256 of all that decides how its networks work."""

import hashlib
from pathlib import Path

from fglfast.base.files import file_digest
from fglfast.generator.blocks import load_blocks
from fglfast.generator.parts import PARTS, part
from fglfast.generator.weights import counted_files


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
