"""The noise that a stochastic solver adds on its way: given to it, never drawn."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Fresh = Callable[[int], Tensor]  # 1, 2, ... -> standard normal noise [B,C,H,W], where the latents lie


class Given(TorchFunctionMode):
    """Within it `torch.randn` gives a batch's own noise, one after the other.

    Every solver of diffusers draws by `randn_tensor`, which calls `torch.randn`; some take a generator, some the noise
    itself, some neither. PyTorch has this way in for them all, and it holds for this thread alone.

    Args:
        fresh: the batch's noise by its number; 0 is what it started from.
    """

    def __init__(self, fresh: Fresh) -> None:
        super().__init__()
        self.fresh, self.drawn = fresh, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function itself, unless it is `torch.randn`.

        Raises:
            ValueError: noise of another shape than the latents' is asked for.
        """
        kwargs = kwargs or {}
        if func is not torch.randn:
            return func(*args, **kwargs)
        self.drawn += 1
        noise_BCHW = self.fresh(self.drawn)
        # What was asked for, and not a number of it drawn.
        like = func(*args, **kwargs | {"generator": None, "device": "meta"})
        if like.shape != noise_BCHW.shape:
            asked, there = tuple(like.shape), tuple(noise_BCHW.shape)
            raise ValueError(f"it draws noise of shape {asked} on latents of {there}")
        return noise_BCHW.to(like.dtype)


def options(scheduler: Any) -> dict[str, Any]:
    """What diffusers' pipelines give every step of a scheduler that takes it: no noise beyond what the solver needs."""
    return {"eta": 0.0} if "eta" in signature(scheduler.step).parameters else {}


def numbered(latents_BCHW: Tensor) -> Fresh:
    """Noise for images that have no identity, such as the gate's: whoever asks, and one for all rows of any batch."""

    def fresh(number: int) -> Tensor:
        noise_1CHW = torch.randn(1, *latents_BCHW.shape[1:], generator=torch.Generator().manual_seed(number))
        return noise_1CHW.to(latents_BCHW.device).expand_as(latents_BCHW)

    return fresh


def draws_ungiven(start: Callable[[], Any]) -> bool:
    """Whether two runs of a solver, given the same noise, end in two places: no image could be drawn again."""
    with torch.random.fork_rng(devices=[]):  # the caller's draws stay what they are, the second run's are others
        first, second = _run(start)[0], _run(start)[0]
    return not torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True)


def draws(start: Callable[[], Any]) -> bool:
    """Whether a solver adds noise on its way: one start then has many ends."""
    with torch.random.fork_rng(devices=[]):
        return _run(start)[1] > 0


def _run(start: Callable[[], Any]) -> tuple[Tensor, int]:
    """Where a solver ends from one place, and how often it asked for noise."""
    scheduler, x = start(), torch.ones(1, 4, 2, 2)
    given = Given(numbered(x))
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        with given:
            x = scheduler.step(0.5 * scaled, timestep, x, return_dict=False, **options(scheduler))[0]
    return x, given.drawn
