"""The solver that others are held against: Dormand and Prince's adaptive pair, by scipy."""

import torch
from scipy.integrate import solve_ivp


def rk45(velocity, noise, tolerance=1e-6):
    """The data at the end of a velocity field's lines from some noise."""

    def flat(t, x):
        now = torch.from_numpy(x).to(noise).view_as(noise)
        return velocity(now, torch.tensor(t).expand(len(noise)).to(noise)).double().flatten().numpy()

    found = solve_ivp(flat, (1.0, 0.0), noise.double().flatten().numpy(), rtol=tolerance, atol=tolerance)
    return torch.from_numpy(found.y[:, -1]).to(noise).view_as(noise)
