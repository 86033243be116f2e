"""The program's entry: `fglfast` and `python -m fglfast`."""

import logging
import os


def main() -> None:
    """Run the command line; libraries are told to keep quiet before any of them is imported."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    for name in (
        "torchao",
        "torch.utils._pytree",
    ):  # on CUDA libraries that a CPU has not, and on each other's versions
        logging.getLogger(name).setLevel(logging.ERROR)
    from fglfast.cli import app

    app()


if __name__ == "__main__":
    main()
