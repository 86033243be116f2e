"""The sampler where an engine computes, on PyTorch's fake GPU: one device, and nothing goes over or comes back."""

import pytest
import torch
from fake_gpu import FakeGpu, on_gpu

from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import EVERYWHERE, Schedule
from fglfast.sampler.solver import SOLVERS

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
FLOW = {"num_train_timesteps": 1000}
# UniPC's few numbers are copied over at every step, by diffusers itself: no latents, but a wait.
NAMES = {*SOLVERS.values()} - {"UniPCMultistepScheduler"} | {
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
}


def drawn(name, guidance_scale, interval=EVERYWHERE):
    """Shapes of what was moved while a batch of two was sampled in four steps."""
    schedule = Schedule(name, FLOW if "Flow" in name else BETAS, 4, None, guidance_scale, interval)
    with FakeGpu() as gpu:
        text, negative = on_gpu(2, 3, 5), on_gpu(3, 5)

        def denoise(latents, timestep, text):
            return 0.3 * latents + timestep.view(-1, 1, 1, 1) * text.mean((1, 2)).view(-1, 1, 1, 1)

        latents = sample(denoise, on_gpu(2, 4, 8, 8), text, negative, schedule, lambda _: on_gpu(2, 4, 8, 8))
    assert latents.device.type == "cuda" and latents.shape == (2, 4, 8, 8) and latents.dtype == torch.float32
    return gpu.moved


@pytest.mark.parametrize("name", sorted(NAMES))
def test_nothing_crosses_while_a_batch_is_sampled(name):
    for guidance, interval in ((1.0, EVERYWHERE), (2.0, EVERYWHERE), (2.0, (0.2, 0.7))):
        assert not any(drawn(name, guidance, interval).values())


def test_the_fake_gpu_sees_what_it_is_to_see():
    with FakeGpu() as gpu:
        there = torch.ones(2, 3).to("cuda:0")
        there.to("cpu")
        with pytest.raises(RuntimeError):
            there + torch.ones(2, 3)
        with pytest.raises(RuntimeError):
            float(there.sum())
    assert gpu.moved == {"to": {(2, 3): 1}, "from": {(2, 3): 1}}
