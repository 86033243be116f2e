"""Whether the weights of a network are all there, in the shapes that its config describes; told by their headers.

The libraries that load them leave what is missing at random, or at one and zero, and go on.
"""

import re
from pathlib import Path

from torch import nn

from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.base.wording import some
from fglfast.generator.configs import read_header
from fglfast.generator.weights import HINT, weight_files

# Names of older files, which diffusers and transformers take for those of today.
PREFIX = "text_model."  # of a text encoder's weights, in some files and releases
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD = re.compile(rf"\.({'|'.join(ATTENTION)})\.(weight|bias)$")


def require_whole(network: nn.Module, folder: Path) -> None:
    """Refuse a folder's weights that are not a network's own; more than it has are left out when they are loaded.

    The network is as its config describes it, and may be on the meta device.

    Raises:
        BadInputError: one is missing, or has another shape; it names the weight and the file.
    """
    files = weight_files(folder)
    found = {name: (shape, path) for path in files for name, shape in _shapes(path).items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if missing := sorted(name for name in wanted if _today(name) not in found):
        where = files[0] if len(files) == 1 else f"{folder} ({some([path.name for path in files])})"
        raise BadInputError(f"{where}: incomplete ({some(missing)} missing)", HINT)
    for name, shape in wanted.items():
        there, path = found[_today(name)]
        if there != shape:
            raise BadInputError(f"{path}: {name} has the shape {there}, and its config's has {shape}", HINT)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    header = read_header(path)
    with loading(path, HINT):
        return {_today(name): tuple(facts["shape"]) for name, facts in header.items() if name != "__metadata__"}


def _today(name: str) -> str:
    """The name that a weight has today, without a text encoder's prefix."""
    return OLD.sub(lambda old: f".{ATTENTION[old[1]]}.{old[2]}", name.removeprefix(PREFIX))
