"""What is learned with and held against: networks whose answers are known, and Dormand and Prince's solver by scipy."""

from types import SimpleNamespace

import torch
from scipy.integrate import solve_ivp
from torch import nn


def rk45(velocity, noise, tolerance=1e-6):
    """The data at the end of a velocity field's lines from some noise."""

    def flat(t, x):
        now = torch.from_numpy(x).to(noise).view_as(noise)
        return velocity(now, torch.tensor(t).expand(len(noise)).to(noise)).double().flatten().numpy()

    found = solve_ivp(flat, (1.0, 0.0), noise.double().flatten().numpy(), rtol=tolerance, atol=tolerance)
    return torch.from_numpy(found.y[:, -1]).to(noise).view_as(noise)


class Net(nn.Module):
    """Two dimensions, a UNet's signature."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x, timestep, text, return_dict):
        return (self.layers(torch.cat([x.flatten(1), timestep[:, None] / 1000], 1)).view_as(x),)


class Speaker(nn.Module):
    """A UNet that takes the data for what the text's second vector says: its best text is the mean of the data."""

    def forward(self, x, timestep, text):
        t = (timestep / 1000).clamp(min=0.05).view(-1, 1, 1, 1)
        return (x - text[:, 1, : x.shape[1], None, None]) / t


class KilledError(Exception):
    pass


class Mortal(Speaker):
    """It is killed when it is asked for the seventeenth time."""

    left = 17

    def forward(self, x, timestep, text):
        self.left -= 1
        if not self.left:
            raise KilledError
        return super().forward(x, timestep, text)


def speaker(width, unet=None):
    """A generator that speaks, of texts of so many channels."""
    linear = nn.Linear(width, width, bias=False).requires_grad_(False)
    linear.weight.data = torch.eye(width)
    projection = nn.Sequential(linear)
    projection.linear, projection.pooled = linear, 0
    return SimpleNamespace(unet=unet or Speaker(), projection=projection)
