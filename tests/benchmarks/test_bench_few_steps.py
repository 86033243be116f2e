"""What the benchmarks of few steps and couplings work out before and after they measure."""

import pytest

from benchmarks.arena_columns import shades
from benchmarks.cells import spread
from benchmarks.couplings import gaussians, verdict
from benchmarks.few_step_columns import couplings, few_steps, first_reached
from benchmarks.few_steps import STUDENTS, of_student, on_the_linear_path, renewed, summed
from benchmarks.results_file import result
from fglfast.engine.recipe import Recipe
from fglfast.federation.method_names import ALONE
from fglfast.sampler.schedule import Sampling
from fglfast.sampler.spacing import aligned_levels


def test_align_your_steps_descends_from_noise_alone():
    """Where all data is one point, no noise is left of it: 6.4% was, when the first step lay at 936."""
    steps = on_the_linear_path(4)
    assert steps[0] == 1000 and steps == pytest.approx((1000, 763.44, 582.35, 337.48), abs=0.1)
    ratios = [step / (1000 - step) for step in steps[1:]]
    assert ratios == pytest.approx(aligned_levels(4, xl=False)[1:], rel=1e-4)
    Sampling(steps=4, scheduler="flow-euler", timesteps=steps)


def test_a_students_rows_are_its_own_steps_and_fewer():
    recipe = Recipe(image_size=32, sampling=Sampling(steps=4, scheduler="flow-euler", guidance_scale=1.0))
    rows = of_student("reflow", recipe)
    assert [row.sampling.steps for row in rows] == [4, 2, 1]
    assert all(name in STUDENTS for name in ("reflow", "marginal-data transport"))
    runs = [{"test": t, "private": 0.5} for t in (0.8, 0.9, 0.7)]
    row = summed(rows[0], runs, [9.0, 30.0, 8.0])
    assert (row["test"], row["images_per_second"]) == (0.8, 9.0)


def row(title, steps, tests, rate, guidance=1.0):
    runs = [{"test": test} for test in tests]
    sampling = {"steps": steps, "guidance_scale": guidance}
    found = {"title": title, "source": "0000.00000", "sampling": sampling, "test": sorted(tests)[1], "runs": runs}
    return found | {"images_per_second": rate, "paces": [rate]}


MADE = {name: settings.model_dump(mode="json") for name, settings in STUDENTS.items()}
RESULT = {
    "students": MADE,
    "rows": [
        row("teacher, DPM-Solver++", 50, (0.79, 0.80, 0.81), 5.0, 1.5),
        row("teacher, DPM-Solver++", 8, (0.80, 0.82, 0.84), 40.0),
        row("teacher, Euler, AYS", 4, (0.80, 0.81, 0.82), 80.0),
        row("student, reflow", 2, (0.80, 0.815, 0.82), 120.0),
        row("student, reflow", 1, (0.80, 0.81, 0.82), 240.0),
        row("student, marginal-data transport", 1, (0.83, 0.83, 0.83), 240.0),
    ],
}


def test_a_student_stands_beside_the_fastest_setting_of_its_teacher_that_is_as_accurate():
    head, lines = few_steps(RESULT)
    assert head[5] == "50 guided steps = 1"
    assert [line[5] for line in lines] == ["1.0x", "8.0x", "16.0x", "24.0x", "48.0x", "48.0x"]
    assert [line[6] for line in lines] == ["", "", "", "3.0x of DPM-Solver++, 8", "3.0x of Euler, AYS, 4", ""]
    assert [line[7] for line in lines] == ["", "", "", "2,000", "2,000", "1,530"]
    costly = RESULT | {"cost": {"reflow": {"pairs": 900.4, "training": 300.0}}}
    head, lines = few_steps(costly)
    assert head[8] == "seconds to make" and [line[8] for line in lines[2:]] == ["", "1200", "1200", ""]


def test_rows_measured_again_keep_their_rates_and_say_when():
    again = row("teacher, Euler, AYS", 4, (0.7, 0.7, 0.7), 1.0)
    del again["images_per_second"], again["paces"]
    new = {"rows": [again], "students": {}, "bends": {}, "cost": {}}
    found = renewed(RESULT | {"created": "then", "bends": {}}, new, "AYS")
    assert [each["test"] for each in found["rows"]] == [0.80, 0.82, 0.7, 0.815, 0.81, 0.83]
    assert found["rows"][2]["images_per_second"] == 80.0 and found["students"] == MADE
    assert found["created"] == "then" and found["renewed"][0]["only"] == "AYS" and "command" in found["renewed"][0]


def curve(*losses):
    return [{"step": 10 * i, "loss": x, "distance": 2 * x, "effective": 1.0} for i, x in enumerate(losses, 1)]


CURVES = {
    "independent": [curve(3.0, 2.0, 1.0), curve(3.0, 1.5, 2.0), curve(9.0, 8.0, 7.0)],
    "ot": [curve(2.0, 0.9, 0.8), curve(1.0, 1.0, 1.0), curve(9.0, 9.0, 9.0)],
    "w-cfm": [curve(4.0, 3.0, 2.0), curve(4.0, 3.0, 3.0), curve(9.0, 9.0, 9.0)],
}


def test_a_coupling_is_held_against_where_independent_pairs_of_its_seed_end():
    assert first_reached(CURVES, "ot", "loss") == [20, 10, float("inf")]
    assert first_reached(CURVES, "independent", "distance") == [30, 20, 30]
    assert verdict("ot", CURVES) == {"coupling": "ot", "effective": 1.0, "loss": 1.0, "distance": 2.0}
    rows = [verdict(coupling, CURVES) for coupling in CURVES]
    _, lines = couplings({"cases": [{"case": "plane", "rows": rows, "curves": CURVES}]})
    assert [line[2] for line in lines] == ["30 (20 to 30)", "20 (10 to never)", "never"]


def test_one_seed_has_no_range():
    assert spread([0.84]) == "84.0%" and spread([0.8, 0.9, 0.85]) == "85.0% (80.0% to 90.0%)"


def test_the_server_seconds_of_both_kinds_of_prompts_stand_in_their_table():
    results = [result(name) for name in ("arena-shades", "arena-shades-instance")]
    head, lines = shades(results[0])
    kept = [found["summaries"] for found in results]
    kept[1] = [line for line in kept[1] if line["method"] not in ALONE]  # they send no prompts, and stand there once
    seconds = [f"{line['server_seconds']:,.0f}" for lines in kept for line in lines]
    assert [line[head.index("server s")] for line in lines] == seconds and len(set(seconds)) > 1


def test_the_mixtures_conditions_are_even():
    case = gaussians(10)
    assert case.data.shape[1:] == (2, 1, 1) and 0.45 < float(case.condition.float().mean()) < 0.55
