"""PyTorch compiled, every kernel chosen by trying: for data sets that take days.

The compiler times some twenty variants of each product and convolution, and walks on from the best (max-autotune, which
includes coordinate descent and CUDA graphs); it remembers them in its own cache. On an H200 it was not done with a
small model after four minutes (benchmarks/LOG.md), so that "auto" leaves it out.
"""

from fglfast.engine.backends.compiled import TorchCompileBackend


class TorchAutotuneBackend(TorchCompileBackend):
    """The compiled backend, tuned."""

    needs_cuda = True
    mode = "max-autotune"


BACKEND = TorchAutotuneBackend()
