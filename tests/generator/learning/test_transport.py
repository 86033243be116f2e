"""Transports whose mean velocity is known: one Gaussian in closed form, two by an ODE solver."""

import pytest
import torch
from reference import Net, rk45

from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.solvers import euler, guided, uniform
from fglfast.generator.learning.student import Pairs, Task
from fglfast.generator.learning.transport import distillation, fit_transport, matching, networks_asked

FLOW = Task(LINEAR, "velocity", lambda t: 1000 * t)
MEAN, DEVIATION = 1.5, 0.4


def wide(t):
    return t.view(-1, 1, 1, 1)


def velocity(x, t):
    """Towards one Gaussian."""
    t = wide(t)
    variance = (1 - t).square() * DEVIATION**2 + t.square()
    inner = (x - (1 - t) * MEAN) / variance
    return t * inner - (MEAN + (1 - t) * DEVIATION**2 * inner)


def mean_velocity(x, t):
    """From t to 0: a flow keeps a point's place within the Gaussian."""
    t = wide(t)
    place = (x - (1 - t) * MEAN) / ((1 - t).square() * DEVIATION**2 + t.square()).sqrt()
    return (x - MEAN - DEVIATION * place) / t.clamp(min=1e-6)


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(2000, generator=generator) * 0.9 + 0.1
    data = MEAN + DEVIATION * torch.randn(2000, 2, 1, 1, generator=generator)
    return LINEAR.at(data, torch.randn(data.shape, generator=generator), t), t


def test_the_mean_velocity_is_where_matching_rests_and_the_velocity_is_not(points):
    at_rest, elsewhere = (float(matching(field, velocity, *points)) for field in (mean_velocity, velocity))
    assert at_rest < 0.25 * elsewhere  # what is left is the difference's own error


def test_a_shorter_difference_leaves_less(points, monkeypatch):
    shares = []
    for interval in (0.1, 0.02):
        monkeypatch.setattr("fglfast.generator.learning.transport.INTERVAL", interval)
        at_rest, elsewhere = (float(matching(field, velocity, *points)) for field in (mean_velocity, velocity))
        shares.append(at_rest / elsewhere)
    assert shares[1] < 0.1 * shares[0]


def test_distillation_rests_there_too_and_pushes_back_what_is_moved(points):
    x, t = points
    start, noise = torch.randn_like(x), torch.randn_like(x)

    def push(offset):
        shift = torch.full((2, 1, 1), offset, requires_grad=True)
        distillation(
            lambda x, t: mean_velocity(x, t) + shift * t.view(-1, 1, 1, 1), velocity, start, noise, t
        ).backward()
        return shift.grad.mean().item()

    # A mean velocity too large by 0.5 draws data too small by as much: it is pushed down, and one too small up.
    assert push(0.5) > 4 * abs(push(0.0)) and push(-0.5) < -4 * abs(push(0.0))


def test_guidance_is_that_of_the_sampler(points):
    x, t = points
    free = lambda x, t: torch.zeros_like(x)  # noqa: E731
    assert guided(velocity, free, 1.0) is velocity
    assert torch.allclose(guided(velocity, free, 3.0)(x, t), 3 * velocity(x, t))


def fitted(net, steps, rate, folder):
    noise = torch.randn(1500, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    field = lambda x, t: net(x, 1000 * t, None, False)[0]  # noqa: E731
    with torch.no_grad():
        data = rk45(field, noise, 1e-4)
        errors = [(euler(field, noise, uniform(1)) - data).square().mean().item()]
        pairs = Pairs(noise, data, torch.zeros(1, 1, 1), torch.zeros(len(noise), dtype=torch.long))
        settings = FitSettings(steps=steps, batch_size=256, learning_rate=rate, ema_decay=0.99, warmup_steps=20)
    fit_transport(net, FLOW, pairs, settings, folder, torch.zeros(1, 1), 1.0)
    with torch.no_grad():
        errors.append((euler(field, noise, uniform(1)) - data).square().mean().item())
    return errors


def test_one_step_of_a_student_ends_where_the_teacher_does(tmp_path):
    """The teacher is a network that learned the way to two points, which one step of it misses."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    centres = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    for _ in range(600):
        data = (centres[torch.randint(2, (256,))] + 0.1 * torch.randn(256, 2)).view(256, 2, 1, 1)
        t, noise = torch.rand(256), torch.randn(256, 2, 1, 1)
        loss = (net(LINEAR.at(data, noise, t), 1000 * t, None, False)[0] - (noise - data)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    teacher, student = fitted(net, 900, 3e-3, tmp_path)
    assert student < 0.1 * teacher


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_networks_that_training_asks_are_counted(scale, tmp_path):
    class Counted(Net):
        calls = 0  # of student and teacher alike

        def forward(self, *inputs, **named):
            Counted.calls += 1
            return super().forward(*inputs, **named)

    pairs = Pairs(*(torch.zeros(8, 2, 1, 1) for _ in range(2)), torch.zeros(1, 1, 1), torch.zeros(8, dtype=torch.long))
    few = FitSettings(steps=20, batch_size=4, learning_rate=1e-3, warmup_steps=1)
    fit_transport(Counted(), FLOW, pairs, few, tmp_path, torch.zeros(1, 1), scale)
    assert Counted.calls == networks_asked(20, scale) == {1.0: 18 * 3 + 2 * 7, 2.0: 18 * 4 + 2 * 9}[scale]
