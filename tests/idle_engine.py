"""An engine that computes nothing: images are the starting noise itself, spoilt where a test wants it."""

from pathlib import Path
from types import SimpleNamespace

import torch

from fglfast.engine.build import Engine
from fglfast.engine.networks import Networks
from fglfast.generator.load import read_shapes


def decode(latents_BCHW):
    return latents_BCHW[:, :3].div(3).repeat_interleave(4, 2).repeat_interleave(4, 3)


def spoilt(latents_BCHW):
    """Not a number, black or grey for a share of all noises."""
    images_BCHW, first_B = decode(latents_BCHW), latents_BCHW[:, 0, 0, 0]
    images_BCHW[first_B > 1.2, :, :4] = torch.nan
    images_BCHW[first_B < -1.2] = -torch.inf
    images_BCHW[latents_BCHW[:, 0, 0, 1] > 1.5] = 0.25
    return images_BCHW


def idle_engine(model, decoder=decode, batch=8, name="idle"):
    shapes = read_shapes(model, 32)
    networks = Networks(
        encode=lambda ids: torch.zeros(len(ids), shapes.text_length, shapes.text_width),
        project=lambda text: text,
        denoise=lambda latents, timestep, text: torch.zeros_like(latents),
        decode=decoder,
    )
    build = SimpleNamespace(image_size=32, unet_batch=batch, vae_batch=batch)
    key = SimpleNamespace(weights="ab" * 32, build=build, digest=lambda: name)
    return Engine(Path(name), SimpleNamespace(key=key, shapes=shapes), networks, model, cached=True)
