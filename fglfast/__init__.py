"""fglfast: Federated Generative Learning at the hardware's limit (arXiv 2306.16064)."""

from importlib.metadata import version

__version__ = version("fglfast")
