"""Images that came out blank: found, drawn again, the same ones in any batch, on any rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from idle_engine import decode, spoilt
from test_synthesize import SETTINGS, hashes, pixels

from fglfast.base.errors import FglError
from fglfast.shards.tar import read_samples
from fglfast.synthesis.draw import is_flat
from fglfast.synthesis.plan import REDRAWS
from fglfast.synthesis.synthesize import synthesize

MANY = SETTINGS.model_copy(update={"images_per_class": 12})


def redraws(folder):
    samples = [sample for tar in sorted(folder.glob("*.tar")) for _, sample in read_samples(tar)]
    return [sample.facts["redraw"] for sample in samples if "redraw" in sample.facts]


def test_blank_images_are_drawn_again_alike_in_any_batch_rank_and_resume(idle, merged, tmp_path):
    made = synthesize(idle(spoilt), merged, MANY, tmp_path / "a")
    again = redraws(tmp_path / "a")
    assert made.redrawn == sum(again) > 0 and max(again) <= REDRAWS
    assert not is_flat(np.stack(list(pixels(tmp_path / "a").values())).astype(np.uint8)).any()
    synthesize(idle(spoilt, batch=3), merged, MANY, tmp_path / "b")
    shares = [synthesize(idle(spoilt), merged, MANY, tmp_path / "c", rank, 2).redrawn for rank in (1, 0)]
    (tmp_path / "c" / "train-000001.tar").unlink()
    synthesize(idle(spoilt), merged, MANY, tmp_path / "c")
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b") == hashes(tmp_path / "c")
    assert sum(shares) == made.redrawn


def test_sound_images_are_those_of_a_run_with_no_blank_ones(idle, merged, tmp_path):
    made = synthesize(idle(), merged, MANY, tmp_path / "sound")
    synthesize(idle(spoilt), merged, MANY, tmp_path / "spoilt")
    assert made.redrawn == 0 and redraws(tmp_path / "sound") == []
    sound, mended = pixels(tmp_path / "sound"), pixels(tmp_path / "spoilt")
    differing = [name for name in sound if not np.array_equal(sound[name], mended[name])]
    assert len(differing) == len(redraws(tmp_path / "spoilt"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -1.0])
def test_a_prompt_that_always_comes_out_blank_is_named(value, idle, merged, tmp_path):
    drawn = []

    def decoder(latents):
        drawn.append(len(latents))
        return torch.full_like(decode(latents), value)

    with pytest.raises(FglError, match=r"class 't-shirt', prompt row [0-9a-f]{16} \(client 'ann'\): .* in 4 draws"):
        synthesize(idle(decoder), merged, MANY, tmp_path)
    assert drawn == [8] * (1 + REDRAWS) and not list(tmp_path.glob("*.tar"))


@given(st.lists(st.integers(0, 255), min_size=3, max_size=3), st.integers(8, 100), st.integers(0, 1))
def test_a_constant_image_is_flat_whatever_its_colour_and_size(colour, side, rounding):
    image = np.full((1, side, side, 3), colour, dtype=np.uint8)
    image[:, ::2] -= np.minimum(image[:, ::2], rounding).astype(np.uint8)
    assert is_flat(image).tolist() == [True]


@given(st.integers(0, 200), st.integers(4, 55), st.integers(64, 300))
def test_a_dark_thing_on_a_flat_ground_is_not(ground, contrast, side):
    """A square of a third of the side, four levels above a ground of any one colour."""
    image = np.full((1, side, side, 3), ground, dtype=np.uint8)
    image[:, side // 3 : 2 * side // 3, side // 3 : 2 * side // 3, 1] += np.uint8(contrast)
    assert is_flat(image).tolist() == [False]
