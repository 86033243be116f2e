"""What of the package is installed beside the thin client: which extra brings a module, and how it is had."""

from collections.abc import Iterator
from contextlib import contextmanager

from fglfast.base.errors import MissingExtraError

# Modules that code of ours imports, by the extra of pyproject.toml that brings them first.
EXTRAS = {
    "embed": ("scipy", "torch", "transformers"),
    "server": ("deepspeed", "diffusers", "jinja2", "kornia", "matplotlib", "onnx", "onnxscript", "pyarrow"),
    "cpu": ("nncf", "onnxruntime", "openvino"),
    "gpu": ("torchao", "xformers"),
    "tensorrt": ("tensorrt",),
    "fed": ("flwr",),
    "privacy": ("dp_accounting",),
    "sign": ("cryptography",),
    "pretrain": ("ot",),
}


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Say of imports that fail for want of a package how it is installed.

    Args:
        extra: embed or server, whichever is wanted where PyTorch is; other packages are named with their own extra.
        what: needs it, as a sentence begins.

    Raises:
        MissingExtraError: in place of the import's error; any other module that is not found is left to itself.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if missing := missing_extra(error, extra, what):
            raise missing from error
        raise


def missing_extra(error: BaseException, extra: str, what: str) -> MissingExtraError | None:
    """An import's error as one that says what to install; None of any other, and if no extra brings the module."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    module = (name or "").partition(".")[0]
    home = next((name for name, modules in EXTRAS.items() if module in modules), None)
    if home is None:
        return None
    wanted = extra if home == "embed" else home
    return MissingExtraError(f"{what} needs {module}, which is not installed", f"pip install 'fglfast[{wanted}]'")
