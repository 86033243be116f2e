"""LoRA adapters (Hu et al., arXiv 2106.09685), added to the weights of a UNet: W + weight (alpha / rank) B A.

A model with an adapter is a model folder of its own, made once and kept, so that all that follows takes it for any
other. Its text encoder stays the model's: clients embed with that one, adapter or not, and what an adapter would change
there is left out.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

from fglfast.base.console import note
from fglfast.base.errors import BadInputError
from fglfast.base.untrusted import loading
from fglfast.base.wording import first_line
from fglfast.generator.configs import read_header
from fglfast.generator.load import blank_networks, read_network
from fglfast.generator.made import copy_others, made_once, model_files
from fglfast.generator.parts import BLOCKS, part
from fglfast.generator.text import is_hub_id

FILE = "pytorch_lora_weights.safetensors"  # as diffusers and its trainers name it
HINT = "use a LoRA adapter of this model's family, as diffusers or kohya's trainers save it"
OTHER_KINDS = ("dora_scale", "lora_magnitude_vector", "hada_w", "lokr_w")
FACTORS = (("lora_down.", "lora_up."), ("lora.down.", "lora.up."), ("lora_A.", "lora_B."))
PAIR = re.compile(r"(.+)\.lora_(A|B)\.weight")


def with_adapter(model: Path, adapter: str, weight: float) -> Path:
    """A model folder with an adapter, times a weight, in its UNet; made once, and found by all that it depends on.

    The adapter is a `.safetensors` file, a folder that holds one, or a hub id.

    Raises:
        BadInputError: there is no such adapter, it is of another kind than LoRA, or it does not fit the UNet.
    """
    if (model / BLOCKS).exists():
        raise BadInputError(f"{model}: a model in blocks takes no adapter", "leave out lora, or use another model")
    path = find_adapter(adapter)

    def make(folder: Path) -> None:
        unet = _fused(model, path, weight)
        copy_others(model, folder)
        unet.save_pretrained(folder / "unet")

    return made_once(
        path.stem, f"{model.name} with adapter {path.name}, times {weight!r}", [*model_files(model), path], make
    )


def find_adapter(name: str) -> Path:
    """The file of an adapter, fetched if need be.

    Raises:
        BadInputError: there is none, or several.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        files = [file for file in files if file.name == FILE] or files
        if len(files) != 1:
            raise BadInputError(f"{path}: {len(files)} adapters where one is wanted", "name the .safetensors file")
        return files[0]
    if path.is_file():
        return path
    if not is_hub_id(name):
        raise BadInputError(f"lora {name!r}: no such file", "give a .safetensors file, its folder, or a hub id")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILE))
    except (OSError, ValueError) as error:  # the hub's errors are of these kinds
        raise BadInputError(f"lora {name!r}: no such file, and not from the hub ({first_line(error)})", HINT) from error


def _fused(model: Path, path: Path, weight: float) -> UNet2DConditionModel:
    names = read_header(path).keys()
    refused = next((key for key in names if any(kind in key for kind in OTHER_KINDS)), None)
    if refused:
        raise BadInputError(f"{path}: {refused} is of another kind of adapter than LoRA", HINT)
    _check_pairs(path, names)
    blank_networks(model)  # refuses configs that ask for more memory than the weights fill
    with loading(path, HINT), torch.no_grad():
        unet: UNet2DConditionModel = read_network(UNet2DConditionModel, part(model, "unet"))
        for name, change in _changes(path, unet):
            layer = unet.get_submodule(name).weight
            found, wanted = (" by ".join(map(str, each.shape)) for each in (change, layer.flatten(1)))
            if found != wanted:
                raise BadInputError(f"{path}: {name} is {found}, and this UNet's is {wanted}", HINT)
            layer += weight * change.reshape(layer.shape)
    return unet


def _check_pairs(path: Path, names: Collection[str]) -> None:
    """Refuse an adapter that has one factor of a layer alone, by the names in its file, whoever wrote it."""
    both = [*FACTORS, *((up, down) for down, up in FACTORS)]
    halves = ((name, name.replace(there, other)) for name in names for there, other in both if there in name)
    for name, other in halves:
        if other not in names and not name.startswith("text_encoder"):
            raise BadInputError(f"{path}: {name} is there without {other}", HINT)


def _changes(path: Path, unet: UNet2DConditionModel) -> Iterator[tuple[str, Tensor]]:
    """(alpha / rank) B A of each layer that an adapter changes, as [rows, columns]."""
    read: Any = StableDiffusionLoraLoaderMixin.lora_state_dict
    tensors, alphas, facts = read(
        str(path.parent),
        weight_name=path.name,
        unet_config=unet.config,
        use_safetensors=True,
        local_files_only=True,
        return_lora_metadata=True,
    )
    if any(key.startswith("text_encoder") for key in tensors):
        note(f"{path.name}: what it changes in the text encoder is left out, as clients embed with the model's own")
    layers, scales = _layers(path, tensors), _scales(path, alphas or {}, facts or {})
    for name, pair in layers.items():
        down, up = pair["A"].float().flatten(1), pair["B"].float().flatten(1)
        if len(down) != up.shape[1]:
            raise BadInputError(f"{path}: {name} has factors of ranks {len(down)} and {up.shape[1]}", HINT)
        change = scales.get(name, scales.get("", float(len(down)))) / len(down) * up @ down
        if not change.isfinite().all():
            raise BadInputError(f"{path}: {name} is not a number everywhere", HINT)
        yield name, change


def _layers(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The two factors, A [rank, columns...] and B [rows, rank...], of each layer of the UNet."""
    own = {key.removeprefix("unet."): value for key, value in tensors.items() if not key.startswith("text_encoder")}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in convert_unet_state_dict_to_peft(own).items():
        found = PAIR.fullmatch(key)
        if not found:
            raise BadInputError(f"{path}: {key} is no part of a LoRA adapter of a UNet", HINT)
        layers.setdefault(found[1], {})[found[2]] = value
    if not layers:
        raise BadInputError(f"{path}: changes no weight of the UNet", HINT)
    return layers


def _scales(path: Path, alphas: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, float]:
    """The alpha of each layer that has one, and under "" that of all others; it is the rank where nothing is said."""
    odd = [key for key in ("alpha_pattern", "rank_pattern", "use_rslora", "use_dora") if facts.get(f"unet.{key}")]
    if odd:
        raise BadInputError(f"{path}: its metadata has {odd[0]}, which is not read", HINT)
    own = {key.removeprefix("unet."): value for key, value in alphas.items() if key.startswith("unet.")}
    named = convert_unet_state_dict_to_peft(own)
    scales = {key.removesuffix(".alpha").partition(".lora_A.")[0]: float(value) for key, value in named.items()}
    common = facts.get("unet.lora_alpha")
    return scales if common is None else {"": float(common), **scales}
