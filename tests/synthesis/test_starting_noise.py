import numpy as np

from fglfast.synthesis.plan import Item
from fglfast.synthesis.starting_noise import starting_noise


def test_noise_depends_on_the_identity_alone():
    shape, identity = (2, 3, 4), (3, "bag", "ab")
    noise = starting_noise(7, Item(0, 1, 2, *identity), shape)
    assert np.array_equal(noise, starting_noise(7, Item(99, 5, 9, *identity), shape, step=0))
    others = [
        starting_noise(seed, Item(0, 1, 2, *of), shape)
        for seed, of in (
            *((8, identity), (7, (4, "bag", "ab")), (7, (3, "bags", "ab")), (7, (3, "bag", "ac"))),
            (7, (*identity, 1)),
        )
    ]
    others += [starting_noise(7, Item(0, 1, 2, *identity), shape, step) for step in (1, 2)]
    assert not any(np.array_equal(one, other) for k, one in enumerate([noise, *others]) for other in others[k:])
    assert noise.dtype == np.float32 and noise.shape == shape
