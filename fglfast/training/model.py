"""The global model: build one from a name or a config file, save it for plain transformers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from fglfast.base.console import no_loading_bars
from fglfast.base.errors import BadInputError, UsageError
from fglfast.base.files import write_atomic
from fglfast.base.names import ClassNames
from fglfast.base.untrusted import json_object, loading
from fglfast.base.wording import first_line
from fglfast.generator.configs import MOST_LABELS, Announced, announced, check_config, check_folder
from fglfast.generator.outline import outlined
from fglfast.training.resnet import WEIGHTS
from fglfast.training.settings import ARCHITECTURES, check_arch


def build_model(arch: str, class_names: Sequence[str]) -> PreTrainedModel:
    """Build an image classifier with fresh weights, drawn from torch's global generator.

    Args:
        arch: one of `ARCHITECTURES` (ResNets, He et al., arXiv 1512.03385, and their like), or the path of a JSON file
            that holds any transformers image-classification config. No code from outside is ever run.
        class_names: the classes, in the order of their labels.

    Raises:
        UsageError: the name is unknown, or the file is not a usable config.
    """
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(class_names)),
        "label2id": {name: i for i, name in enumerate(class_names)},
    }
    check_arch(arch)
    if arch in ARCHITECTURES:
        config = AutoConfig.for_model(**{"model_type": "resnet", **ARCHITECTURES[arch]}, **labels)
    else:
        config = _config_from_file(Path(arch), labels)
    try:
        model = _from_config(config)
    except Exception as error:  # whatever the config's own model raises at sizes that do not fit together
        raise UsageError(f"no image classifier can be built from {arch}: {first_line(error)}") from error
    return model


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

    Raises:
        BadInputError: the folder holds no classifier, or one whose config asks for more than its weights fill.
    """
    check_folder(folder)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    load: Any = AutoModelForImageClassification.from_pretrained
    with loading(folder), no_loading_bars():
        config = AutoConfig.from_pretrained(str(folder), **options)
        with outlined(announced(folder), folder):
            _from_config(config)
        model = load(str(folder), use_safetensors=True, **options)
        names = [model.config.id2label[label] for label in range(model.config.num_labels)]
        return model, TypeAdapter(ClassNames).validate_python(names)


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The last layer of a classifier, with its bias.

    Raises:
        BadInputError: it is not linear, or has no bias.
    """
    if (head := _last_linear(model)) is None:
        raise BadInputError("the last layer of this architecture is not linear, or has no bias", "use another one")
    return head


def has_linear_head(model: PreTrainedModel) -> bool:
    """Whether `head_of` finds the last layer."""
    return _last_linear(model) is not None


def body_of(model: PreTrainedModel) -> list[str]:
    """Names of the parameters below the last layer; all of them if that is not linear."""
    head = _last_linear(model)
    ends = {id(parameter) for parameter in head.parameters()} if head else set()
    return [name for name, parameter in model.named_parameters() if id(parameter) not in ends]


def _last_linear(model: PreTrainedModel) -> nn.Linear | None:
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    fits = last and last[0].out_features == model.config.num_labels and last[0].bias is not None
    return last[0] if fits else None


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
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadInputError(f"{path} does not hold this model's weights: {first}", "give another file") from error


def save_model(model: PreTrainedModel, folder: Path, image_size: int) -> None:
    """Write the folder that `from_pretrained` and `pipeline("image-classification")` load, weights last.

    Every file is written under a temporary name and renamed, so `model.safetensors` is never half there.

    Args:
        model: the classifier.
        folder: made if missing.
        image_size: side in pixels the classifier was trained at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    write_atomic(folder / "config.json", model.config.to_json_string())
    write_atomic(folder / "preprocessor_config.json", json.dumps(processor_config(image_size), indent=2) + "\n")
    write_weights(model.state_dict(), folder / WEIGHTS)


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write weights by name, whole or not at all, as transformers reads them."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    write_atomic(path, safetensors.torch.save(copies, metadata={"format": "pt"}))


def processor_config(image_size: int) -> dict[str, Any]:
    """The image processor as transformers spells it: bicubic resize, then x / 127.5 - 1."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups: matrices and kernels decay, biases and normalisation (one dimension) do not."""
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _config_from_file(path: Path, labels: dict[str, Any]) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        content = {key: value for key, value in content.items() if key not in ("auto_map", "num_labels", *labels)}
        config = AutoConfig.for_model(content.pop("model_type"), **content, **labels)
    except KeyError as error:
        raise UsageError(f"{path} has no model_type", "use a transformers config.json of a classifier") from error
    except Exception as error:  # transformers validates each config in its own way
        raise UsageError(f"{path} is not a model config: {error}", "use a transformers config.json") from error
    if getattr(config, "num_channels", 3) != 3:
        raise UsageError(f"{path} asks for {config.num_channels} channels", "images are RGB: set num_channels to 3")
    return config
