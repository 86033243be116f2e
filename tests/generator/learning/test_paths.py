"""On a mixture of Gaussians, where everything is known in closed form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fglfast.generator.learning.paths import LINEAR, TRIGONOMETRIC, convert, data_and_noise, score
from fglfast.generator.learning.solvers import bend, euler, heun, rk45, sde, uniform

PATHS = {"linear": LINEAR, "trigonometric": TRIGONOMETRIC}
MEANS = torch.tensor([[-2.0, 0.0], [1.0, 1.5], [1.0, -1.5]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SPREAD = 0.3


def responsibilities(path, x, t):
    """Posterior of the component [B,3], and mean and variance of x_t in each."""
    a, s = path.data(t)[:, None], path.noise(t)[:, None]
    means, variance = a[:, :, None] * MEANS, a.square() * SPREAD**2 + s.square()
    logits = WEIGHTS.log() - (x[:, None] - means).square().sum(-1) / (2 * variance)
    return logits.softmax(1), means, variance


def posterior(path, x, t):
    """E[x0 | x_t] and E[e | x_t]."""
    share, means, variance = responsibilities(path, x, t)
    a, s = path.data(t)[:, None, None], path.noise(t)[:, None, None]
    inner = (x[:, None] - means) / variance[:, :, None]
    data = (share[..., None] * (MEANS + a * SPREAD**2 * inner)).sum(1)
    noise = (share[..., None] * (s * inner)).sum(1)
    return data, noise


def exact_velocity(path):
    def velocity(x, t):
        data, noise = posterior(path, x, t)
        return path.velocity(data, noise, t)

    return velocity


def draw(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(WEIGHTS, count, replacement=True, generator=generator)
    return MEANS[which] + SPREAD * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def start(count, seed=1):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_leads_from_data_to_noise_and_its_velocity_is_its_derivative(name):
    path, x0, e = PATHS[name], draw(5), start(5)
    assert torch.allclose(path.at(x0, e, torch.zeros(5)), x0, atol=1e-6)
    assert torch.allclose(path.at(x0, e, torch.ones(5)), e, atol=1e-6)
    t, h = torch.full((5,), 0.37, dtype=torch.float64), 1e-6
    slope = (path.at(x0, e, t + h) - path.at(x0, e, t - h)) / (2 * h)
    assert torch.allclose(path.velocity(x0, e, t), slope, atol=1e-7)


@pytest.mark.parametrize("name", PATHS)
@given(t=st.floats(0.02, 0.98), kind=st.sampled_from(["velocity", "noise", "data", "v"]))
def test_every_kind_of_prediction_tells_the_same(name, t, kind):
    path, x0, e = PATHS[name], draw(4), start(4)
    t = torch.full((4,), t, dtype=torch.float64)
    x = path.at(x0, e, t)
    prediction = convert(path, "velocity", kind, path.velocity(x0, e, t), x, t)
    for found, known in zip(data_and_noise(path, kind, prediction, x, t), (x0, e), strict=True):
        assert torch.allclose(found, known, atol=1e-6)
    assert torch.allclose(convert(path, kind, "velocity", prediction, x, t), path.velocity(x0, e, t), atol=1e-6)


def test_v_is_that_of_progressive_distillation():
    """On a variance-preserving path v is the velocity, but for the pace at which the angle grows."""
    x0, e, t = draw(6), start(6), torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    velocity, x = TRIGONOMETRIC.velocity(x0, e, t), TRIGONOMETRIC.at(x0, e, t)
    assert torch.allclose(convert(TRIGONOMETRIC, "velocity", "v", velocity, x, t), velocity / (math.pi / 2), atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_score_is_the_gradient_of_the_log_density(name):
    path, x = PATHS[name], start(7).requires_grad_()
    t = torch.linspace(0.2, 0.95, 7, dtype=torch.float64)
    _, means, variance = responsibilities(path, x, t)
    log_density = (WEIGHTS.log() - (x[:, None] - means).square().sum(-1) / (2 * variance) - variance.log()).logsumexp(1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    with torch.no_grad():
        assert torch.allclose(score(path, exact_velocity(path)(x, t), x, t), gradient, atol=1e-8)


@pytest.mark.parametrize("name", PATHS)
def test_solvers_converge_to_the_reference_at_their_order(name):
    velocity, noise = exact_velocity(PATHS[name]), start(64)
    reference, evaluations = rk45(velocity, noise, 1e-9)
    errors = {
        solve: [(solve(velocity, noise, uniform(n)) - reference).square().mean().sqrt().item() for n in (40, 160)]
        for solve in (euler, heun)
    }
    assert errors[euler][0] / errors[euler][1] > 3 and errors[heun][0] / errors[heun][1] > 10
    assert errors[heun][1] < 1e-3 and evaluations > 20


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_ode_and_sde_arrive_at_the_mixture(name, strength):
    path, generator = PATHS[name], torch.Generator().manual_seed(2)
    found = sde(exact_velocity(path), path, lambda t: strength * t, start(4000), uniform(200), generator)
    nearest = torch.cdist(found, MEANS).argmin(1)
    shares = torch.bincount(nearest, minlength=3) / 4000
    assert torch.allclose(shares.double(), WEIGHTS, atol=0.03)
    for component in range(3):
        inside = found[nearest == component]
        assert torch.allclose(inside.mean(0), MEANS[component], atol=0.05)
        assert torch.allclose(inside.std(0), torch.full((2,), SPREAD, dtype=torch.float64), atol=0.05)


def test_a_straight_field_is_straight_and_one_step_solves_it():
    """All data one point: the velocity points from it, and the lines never cross."""
    point = torch.tensor([[3.0, -1.0]], dtype=torch.float64)

    def velocity(x, t):
        return (x - point) / t[:, None]

    assert bend(velocity, start(50), uniform(20)) == bend(velocity, start(50), uniform(1))
    assert bend(velocity, start(50), uniform(20)).curvature == 0
    assert torch.allclose(euler(velocity, start(50), uniform(1)), point.expand(50, 2), atol=1e-9)
    found = bend(exact_velocity(LINEAR), start(200), uniform(50))
    assert found.straightness > 0.05 and found.curvature > 0.5
