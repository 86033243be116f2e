"""PyTorch compiled, every kernel chosen by trying: for data sets that take days.

The compiler times some twenty variants of each product and convolution, and walks on from the best (max-autotune, which
includes coordinate descent and CUDA graphs); it remembers them in its own cache. On an H200 it was at its ninth kernel
of Stable Diffusion's hundreds after three and a half minutes, so that "auto" leaves it out.
"""

from fglfast.engine.backends.compiled import TorchCompileBackend


class TorchAutotuneBackend(TorchCompileBackend):
    """The compiled backend, tuned."""

    needs_cuda = True
    mode = "max-autotune"


BACKEND = TorchAutotuneBackend()
