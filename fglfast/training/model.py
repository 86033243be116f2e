"""The global model: build one from a name or a config file, save it for plain transformers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

from fglfast.base.console import no_loading_bars
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import remove, write_atomic
from fglfast.base.limits import as_limit
from fglfast.base.names import ClassNames
from fglfast.base.untrusted import json_object, loading
from fglfast.base.wording import first_line, some
from fglfast.generator.configs import MOST_LABELS, Announced, announced, check_config, check_folder
from fglfast.generator.outline import outlined
from fglfast.training.preprocessing import PROCESSOR, processor_config
from fglfast.training.results import WEIGHTS
from fglfast.training.settings import ARCHITECTURES, check_arch, read_json_object

NOT_TAKEN = ("auto_map", "num_labels", "dtype", "torch_dtype")  # of a file: code, and what is ours to say

CONFIG_HINT = "use a transformers config.json of a classifier"
MOST_SAID = 300  # letters of an error: transformers lists all its models


def build_model(arch: str, class_names: Sequence[str]) -> PreTrainedModel:
    """Build an image classifier with fresh weights, drawn from torch's global generator.

    Args:
        arch: one of `ARCHITECTURES` (ResNets, He et al., arXiv 1512.03385, and their like), or the path of a JSON file
            that holds any transformers image-classification config. No code from outside is ever run.
        class_names: the classes, in the order of their labels.

    Raises:
        UsageError: the name is unknown, or the file is not a usable config.
    """
    return classifier_of(config_of(arch, class_names), arch)


def config_of(arch: str, class_names: Sequence[str]) -> Any:
    """The config of an architecture for some classes, in the order of their labels.

    Raises:
        UsageError: the name is unknown, or the file is not a usable config.
    """
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: i for i, name in enumerate(class_names)},
    }
    check_arch(arch)
    if arch in ARCHITECTURES:
        return AutoConfig.for_model(**{"model_type": "resnet", **ARCHITECTURES[arch]}, **labels)
    return _config_from_file(Path(arch), labels)


def classifier_of(config: Any, arch: str) -> PreTrainedModel:
    """Build the classifier of a config with fresh weights; `arch` is what people call it.

    Raises:
        UsageError: the config is of no image classifier, of several kinds, or its sizes do not fit together.
    """
    kinds: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), None)
    if isinstance(kinds, tuple) and not config.architectures:  # transformers fails over a config that names none
        names = " or ".join(f'"architectures": ["{kind.__name__}"]' for kind in kinds)
        raise UsageError(
            f"{arch} does not say which classifier of {config.model_type} it is: it has no architectures",
            f"add {names}",
        )
    try:
        return _from_config(config)
    except Exception as error:  # whatever the config's own model raises at sizes that do not fit together
        if as_limit(error):
            raise
        raise UsageError(f"no image classifier can be built from {arch}: {first_line(error)}", CONFIG_HINT) from error


def model_of(text: str, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """A classifier of a config, as JSON, and of its weights, both a stranger's; no code from outside is ever run.

    Raises:
        BadInputError: it is not the config of an image classifier, or of another one than the weights'.
    """
    what = "the global model"
    with loading(what):
        content = json_object(text, MOST_LABELS)
        check_config(content, what)
        config = AutoConfig.for_model(content.pop("model_type"), **content)
    with outlined(Announced(len(weights), sum(tensor.numel() for tensor in weights.values())), what):
        blank = _from_config(config).state_dict()
    if {name: tensor.shape for name, tensor in blank.items()} != {name: value.shape for name, value in weights.items()}:
        raise BadInputError(f"{what}: its weights are not those of its config", "ask who sent it")
    with loading(what):
        model = _from_config(config)
        model.load_state_dict(weights)
    return model


def load_model(folder: Path) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """A saved classifier and its classes, in the order of their labels; whoever saved it, safetensors only.

    Its weights are float32, whatever they were saved in: images come so.

    Raises:
        BadInputError: the folder holds no classifier, its labels are not numbered from 0, or its weights are not those
            of its config: some are missing, of other shapes, or fewer than it asks for.
    """
    check_folder(folder)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    told = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    load: Any = AutoModelForImageClassification.from_pretrained
    with loading(folder), no_loading_bars():
        config = AutoConfig.from_pretrained(str(folder), **options)
        _check_config(config, folder)
        with outlined(announced(folder), folder):
            _from_config(config)
        model, found = load(str(folder), dtype=torch.float32, **told, **options)
        _check_filled(found, folder)
        names = [model.config.id2label[label] for label in range(model.config.num_labels)]
        return model, TypeAdapter(ClassNames).validate_python(names)


def _check_config(config: Any, folder: Path) -> None:
    labels, path = config.id2label, folder / "config.json"
    if (lacking := next((label for label in range(len(labels)) if label not in labels), None)) is not None:
        raise BadInputError(
            f"{path}: the {len(labels)} labels in id2label are not numbered 0 to {len(labels) - 1}: it lacks {lacking}",
            "number them in the order of the last layer's outputs",
        )
    if (channels := getattr(config, "num_channels", 3)) != 3:
        raise BadInputError(f"{path}: takes {channels} channels", "images are RGB: use another model")


def _check_filled(found: Mapping[str, Any], folder: Path) -> None:
    """Refuse weights that transformers drew at random, in the place of what is missing or of another shape.

    `found` is what it tells of the weights that it loaded.
    """
    hint = "take weights and config.json from one and the same model"
    if shapes := sorted(found["mismatched_keys"]):
        name, there, wanted = shapes[0]
        raise BadInputError(
            f"{folder}: its weights do not have the shapes of its config.json: {name} is {list(there)}, not "
            f"{list(wanted)}",
            hint,
        )
    if missing := sorted(name for name in found["missing_keys"] if not name.endswith(".num_batches_tracked")):
        raise BadInputError(f"{folder}: its weights lack {some(missing, most=2)}", hint)


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The last layer of a classifier, with its bias.

    Raises:
        BadInputError: it is not linear, or has no bias.
    """
    if (head := linear_head(model)) is None:
        raise BadInputError("the last layer of this architecture is not linear, or has no bias", "use another one")
    return head


def linear_head(model: PreTrainedModel) -> nn.Linear | None:
    """The last layer of a classifier; None if it is not linear, or has no bias."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    fits = last and last[0].out_features == model.config.num_labels and last[0].bias is not None
    return last[0] if fits else None


def body_of(model: PreTrainedModel) -> list[str]:
    """Names of the parameters below the last layer; all of them if that is not linear."""
    head = linear_head(model)
    ends = {id(parameter) for parameter in head.parameters()} if head else set()
    return [name for name, parameter in model.named_parameters() if id(parameter) not in ends]


def _from_config(config: Any) -> PreTrainedModel:
    build: Any = AutoModelForImageClassification.from_config
    model: PreTrainedModel = build(config, trust_remote_code=False)
    return model


def load_weights(model: PreTrainedModel, path: Path) -> None:
    """Put the weights of a `model.safetensors` into a classifier of the same architecture.

    Raises:
        BadInputError: the file is no such file, or holds the weights of another model.
    """
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        reason = first_line(error)
        raise BadInputError(f"{path} does not hold this model's weights: {reason}", "give another file") from error


def save_model(model: PreTrainedModel, folder: Path, image_size: int) -> None:
    """Write the folder that `from_pretrained` and `pipeline("image-classification")` load, weights last.

    The folder is made if missing; `image_size` is the side in pixels that the classifier was trained at.

    Every file is written under a temporary name and renamed, so `model.safetensors` is never half there. Weights of
    another config go first: a kill leaves none that would be read by this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    texts = {
        "config.json": model.config.to_json_string(),
        PROCESSOR: json.dumps(processor_config(image_size), indent=2) + "\n",
    }
    for path, text in ((folder / name, text) for name, text in texts.items()):
        if not path.is_file() or path.read_bytes() != text.encode():
            remove(folder / WEIGHTS)
        write_atomic(path, text)
    write_weights(model.state_dict(), folder / WEIGHTS)


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights by name, whole or not at all, as transformers reads them."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomic(path, safetensors.torch.save(copies, metadata={"format": "pt"}))


def _config_from_file(path: Path, labels: dict[str, Any]) -> Any:
    content = read_json_object(path, "model config")
    if "model_type" not in content:
        raise UsageError(f"{path} has no model_type", CONFIG_HINT)
    content = {key: value for key, value in content.items() if key not in (*NOT_TAKEN, *labels)}
    try:
        config = AutoConfig.for_model(content.pop("model_type"), **content, **labels)
    except Exception as error:  # transformers validates each config in its own way
        raise UsageError(f"{path} is not a model config: {shorten(str(error), MOST_SAID)}", CONFIG_HINT) from error
    if getattr(config, "num_channels", 3) != 3:
        raise UsageError(f"{path} asks for {config.num_channels} channels", "images are RGB: set num_channels to 3")
    return config
