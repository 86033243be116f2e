"""What the benchmarks of few steps and couplings work out before and after they measure."""

import pytest

from benchmarks.couplings import gaussians, verdict
from benchmarks.few_steps import STUDENTS, of_student, on_the_linear_path, summed
from fglfast.engine.recipe import Recipe
from fglfast.sampler.schedule import Sampling


def test_align_your_steps_descends_from_noise():
    steps = on_the_linear_path(4)
    assert len(steps) == 4 and list(steps) == sorted(steps, reverse=True) and 900 < steps[0] < 1000
    Sampling(steps=4, scheduler="flow-euler", timesteps=steps)


def test_a_students_rows_are_its_own_steps_and_fewer():
    recipe = Recipe(image_size=32, sampling=Sampling(steps=4, scheduler="flow-euler", guidance_scale=1.0))
    rows = of_student("reflow", recipe)
    assert [row.sampling.steps for row in rows] == [4, 2, 1]
    assert all(name in STUDENTS for name in ("reflow", "marginal-data transport"))
    runs = [{"test": t, "private": 0.5} for t in (0.8, 0.9, 0.7)]
    row = summed(rows[0], runs, [9.0, 30.0, 8.0])
    assert (row["test"], row["images_per_second"]) == (0.8, 9.0)


def test_a_coupling_is_held_against_where_independent_pairs_end():
    def curve(*losses):
        return [[{"step": 10 * i, "loss": x, "distance": 2 * x, "effective": 1.0} for i, x in enumerate(losses, 1)]]

    curves = {"independent": curve(3.0, 2.0, 1.0), "ot": curve(2.0, 0.9, 0.8), "w-cfm": curve(4.0, 3.0, 2.0)}
    assert verdict("ot", curves)["steps_to_loss"] == 20 and verdict("ot", curves)["distance"] == pytest.approx(1.6)
    assert verdict("w-cfm", curves)["steps_to_loss"] is None and verdict("independent", curves)["steps_to_loss"] == 30


def test_the_mixtures_conditions_are_even():
    case = gaussians(10)
    assert case.data.shape[1:] == (2, 1, 1) and 0.45 < float(case.condition.float().mean()) < 0.55
