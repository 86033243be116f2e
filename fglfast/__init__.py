"""fglfast: Federated Generative Learning at the hardware's limit (arXiv 2306.16064)."""

__version__ = "0.1.0"
