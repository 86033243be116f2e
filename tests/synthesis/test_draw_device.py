"""Drawing where an engine computes, on PyTorch's fake GPU: noise goes there, bytes come back, one batch ahead."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, FakeGpu
from idle_engine import decode, idle_engine
from test_synthesize import SETTINGS

from fglfast.engine.networks import in_chunks
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.draw import Drawer
from fglfast.synthesis.synthesize import plan_synthesis


class Event:
    """As torch.cuda's: marks that have always been passed."""

    made = 0

    def __init__(self, enable_timing=False, blocking=False, interprocess=False):
        Event.made += 1

    def record(self, stream=None): ...

    def synchronize(self): ...

    def query(self):
        return True

    def elapsed_time(self, end_event):
        return 500.0


@pytest.fixture
def gpu_engine(random_mini, monkeypatch):
    """An engine whose networks compute next to nothing, on the fake GPU, in passes of four rows."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    engine = idle_engine(random_mini, decode, batch=4)
    width = engine.shapes.text_width
    networks = replace(
        engine.networks,
        encode=lambda ids: ids.float().unsqueeze(-1).expand(-1, -1, width),
        denoise=in_chunks(lambda latents, timestep, text: latents * timestep.view(-1, 1, 1, 1) + text.mean(), 4),
        decode=in_chunks(lambda latents: latents.narrow(1, 0, 3).repeat_interleave(4, 2).repeat_interleave(4, 3), 2),
        device=DEVICE,
    )
    return replace(engine, networks=networks)


@pytest.mark.parametrize("tokens", [False, True])
def test_noise_goes_over_and_bytes_come_back(tokens, gpu_engine, payload):
    sampling = Sampling(steps=3, guidance_scale=2.0)
    merged = merge_payloads([payload("ann", (3, 0, 1), tokens), payload("bob", (1, 5, 0), tokens)])
    plan = plan_synthesis(gpu_engine, merged, SETTINGS)
    with FakeGpu() as gpu:
        drawer = Drawer(gpu_engine, plan, Conditioning(merged, gpu_engine), sampling)
        gpu.moved["to"].clear()
        flight = drawer.launch(plan.shard(0)[:4])
    latent = (4, *gpu_engine.shapes.latent)
    images = {shape: times for shape, times in gpu.moved["to"].items() if len(shape) == 4}
    assert images == {latent: 1} and gpu.moved["from"] == {(4, 32, 32, 3): 1}
    assert all(len(shape) in (1, 2, 3) for shape in gpu.moved["to"] if shape != latent)  # text, and which of it
    assert flight.pixels_BSS3.dtype == torch.uint8 and flight.pixels_BSS3.device.type == "cpu" and flight.landed
    assert drawer.ahead == 1
    drawer.watch.count()
    assert drawer.watch.seconds == 0.5 * (sampling.steps + 1)


def test_one_batch_is_launched_before_the_last_is_fetched(idle, merged, monkeypatch):
    """The order of events; what is drawn is what one after the other draws."""
    engine = idle(batch=3)
    plan = plan_synthesis(engine, merged, SETTINGS)
    items = list(plan.items())[:8]
    drawer = Drawer(engine, plan, Conditioning(merged, engine), SETTINGS.sampling)
    expected = list(drawer.batches(items))
    events, launch = [], drawer.launch

    def launched(some):
        flight = launch(some)
        events.append(f"launch {some[0].index}")
        return flight

    monkeypatch.setattr(drawer, "launch", launched)
    for ahead, order in (
        (0, "launch 0, take 0, launch 3, take 3, launch 6, take 6"),
        (1, "launch 0, launch 3, take 0, launch 6, take 3, take 6"),
    ):
        drawer.ahead, found = ahead, []
        events.clear()
        for some, pixels in drawer.batches(iter(items)):
            events.append(f"take {some[0].index}")
            found.append((some, pixels.copy()))
        assert ", ".join(events) == order
        assert [len(some) for some, _ in found] == [3, 3, 2]
        for (some, pixels), (before, there) in zip(found, expected, strict=True):
            assert some == before and np.array_equal(pixels, there)
