"""On a mixture of Gaussians, where everything is known in closed form."""

import torch
from reference import rk45

from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.solvers import bend, euler, uniform
from fglfast.generator.learning.student import Task

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


def test_the_path_leads_from_data_to_noise_and_its_velocity_is_its_derivative():
    path, x0, e = LINEAR, draw(5), start(5)
    assert torch.allclose(path.at(x0, e, torch.zeros(5)), x0, atol=1e-6)
    assert torch.allclose(path.at(x0, e, torch.ones(5)), e, atol=1e-6)
    t, h = torch.full((5,), 0.37, dtype=torch.float64), 1e-6
    slope = (path.at(x0, e, t + h) - path.at(x0, e, t - h)) / (2 * h)
    assert torch.allclose(path.velocity(x0, e, t), slope, atol=1e-7)


def test_every_kind_of_prediction_is_told_of_data_and_noise():
    x0, e, t = draw(4), start(4), torch.full((4,), 0.25, dtype=torch.float64)
    said = {kind: Task(LINEAR, kind, lambda t: t).target(x0, e, t) for kind in ("velocity", "noise", "data", "v")}
    assert torch.equal(said["noise"], e) and torch.equal(said["data"], x0)
    assert torch.allclose(said["velocity"], e - x0) and torch.allclose(said["v"], 0.75 * e - 0.25 * x0)


def test_the_solver_converges_to_the_reference_at_its_order():
    velocity, noise = exact_velocity(LINEAR), start(64)
    reference = rk45(velocity, noise, 1e-9)
    errors = [(euler(velocity, noise, uniform(n)) - reference).square().mean().sqrt().item() for n in (40, 160)]
    assert errors[0] / errors[1] > 3 and errors[1] < 0.05


def test_its_lines_arrive_at_the_mixture():
    found = euler(exact_velocity(LINEAR), start(4000), uniform(200))
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
