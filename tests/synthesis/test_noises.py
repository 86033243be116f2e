import numpy as np

from fglfast.synthesis.noise import starting_noise
from fglfast.synthesis.plan import Item


def test_noise_depends_on_the_identity_alone():
    shape = (2, 3, 4)
    noise = starting_noise(7, Item(0, 1, 2, 3), shape)
    assert np.array_equal(noise, starting_noise(7, Item(99, 1, 2, 3), shape))
    others = [
        starting_noise(seed, Item(0, *of), shape)
        for seed, of in ((8, (1, 2, 3)), (7, (2, 2, 3)), (7, (1, 2, 4)), (7, (1, 2, 3, 1)))
    ]
    assert not any(np.array_equal(noise, other) for other in others)
    assert noise.dtype == np.float32 and noise.shape == shape
