import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.lab.tuning.candidates import Candidate
from fglfast.lab.tuning.costs import predict, synthesis_rates
from fglfast.lab.tuning.records import Measured, Trial
from fglfast.sampler.schedule import Sampling

START, ROW, IMAGE, EPOCHS = 8.0, 0.01, 0.004, 0.02


def trial(images, passes):
    epochs = EPOCHS * images
    measured = Measured(
        accuracy=0.5,
        synthesis_seconds=images * (IMAGE + passes * ROW),
        training_seconds=START + epochs,
        epoch_seconds=epochs,
        evaluation_seconds=1.0,
        drawn_with=None,
    )
    candidate = Candidate(sampling=Sampling(steps=passes), images_per_class=images)
    return Trial(candidate=candidate, images=images, passes=passes, measured=measured)


def test_before_any_trial_the_denoiser_alone_is_a_lower_bound():
    assert predict(100, 12, ROW, []) == pytest.approx(100 * 12 * ROW)


@given(st.lists(st.tuples(st.integers(10, 1000), st.integers(1, 50)), min_size=1, max_size=6))
def test_one_trial_and_the_measured_row_predict_any_other(sizes):
    trials = [trial(*size) for size in sizes]
    assert synthesis_rates(ROW, trials) == pytest.approx((IMAGE, ROW), rel=1e-3)
    assert predict(500, 20, ROW, trials) == pytest.approx(trial(500, 20).measured.server_seconds, rel=1e-3)


def test_rates_are_never_negative():
    slow_row = 10 * ROW  # the pass was measured while the machine was busy
    an_image, a_row = synthesis_rates(slow_row, [trial(100, 4), trial(200, 8)])
    assert an_image >= 0 and a_row > 0
