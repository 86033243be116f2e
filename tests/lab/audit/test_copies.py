"""The search for copies, where it is known who copied what."""

import numpy as np
import torch

from fglfast.lab.audit.copies import Images, search
from fglfast.lab.nearest import nearest


def images(count, seed, width=12):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 4, 4), generator=draw, dtype=torch.uint8)
    return Images(pixels, torch.randn(count, width, generator=draw))


def test_images_of_their_own_are_no_nearer_to_private_ones():
    found, pairs = search(images(1500, 0), images(900, 1), images(700, 2))
    assert found.nearer.low < 0.5 < found.nearer.high and found.against == 700
    assert abs(found.much_nearer - found.much_farther) < 20 and found.identical == 0
    assert len(pairs) == 10 and pairs[0].ratio <= pairs[-1].ratio < 1


def test_where_a_few_images_are_nearest_to_all_the_interval_holds_what_chance_brings():
    """Of many dimensions a few images are the nearest of most, so synthetic images are no independent trials."""
    held = 0
    for seed in range(20):
        found, _ = search(images(3000, 3 * seed, 64), images(100, 3 * seed + 1, 64), images(100, 3 * seed + 2, 64))
        held += found.nearer.low <= 0.5 <= found.nearer.high
    assert held >= 17


def test_copies_are_found_and_counted():
    private, held_out, drawn = images(400, 1), images(400, 2), images(300, 0)
    drawn.pixels_N3SS[:90], drawn.features_NF[:90] = private.pixels_N3SS[:90], private.features_NF[:90] + 1e-3
    drawn.pixels_N3SS[90:95] = held_out.pixels_N3SS[:5]
    found, pairs = search(drawn, private, held_out)
    assert found.identical == 90 and found.identical_held_out == 5
    assert found.much_nearer >= 90 > found.much_farther and found.nearer.low > 0.5
    assert all(np.array_equal(pair.synthetic, pair.private) and pair.synthetic.shape == (4, 4, 3) for pair in pairs)
    assert found.to_private[0] < 0.01 < found.to_held_out[0]


def test_held_out_copies_are_the_reverse():
    private, held_out, drawn = images(200, 1), images(200, 2), images(100, 0)
    drawn.features_NF[:] = held_out.features_NF[:100]
    found, _ = search(drawn, private, held_out)
    assert found.nearer.value == 0 and found.much_farther == 100


def test_the_nearest_in_chunks_is_the_nearest():
    queries, others = torch.randn(2500, 3), torch.randn(50, 3)
    distances, which = nearest(queries, others)
    expected = torch.linalg.vector_norm(queries[:, None] - others[None], dim=2)
    assert np.allclose(distances, expected.min(1).values, atol=1e-5)
    assert (which == expected.argmin(1).numpy()).mean() > 0.999
