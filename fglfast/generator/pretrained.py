"""Models of transformers that take images and texts: a captioner, a judge."""

import os
from typing import Any

import torch

from fglfast.base.console import no_loading_bars
from fglfast.base.errors import BadInputError
from fglfast.base.wording import first_line


def open_pretrained(kind: Any, name: str, what: str, advice: str) -> tuple[Any, Any, Any]:
    """Open a model by one of transformers' auto classes: safetensors only, no code of its own; float16 on a GPU.

    It is a hub id's or a folder's. `what` it is to be begins a message, and the advice says what to give instead.

    Returns:
        What prepares images, what prepares texts, and the model, where it computes.

    Raises:
        BadInputError: it cannot be had, or is of another kind.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": os.environ.get("HF_HUB_OFFLINE") == "1"}
    try:
        with no_loading_bars():
            # PIL's image processors: torchvision is not needed.
            images = AutoImageProcessor.from_pretrained(name, backend="pil", **options)
            texts = AutoTokenizer.from_pretrained(name, **options)
            model = kind.from_pretrained(
                name, dtype=torch.float16 if device == "cuda" else torch.float32, use_safetensors=True, **options
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise BadInputError(f"{what}: {name} cannot be loaded ({first_line(error)})", advice) from error
    return images, texts, model.eval().to(device)
