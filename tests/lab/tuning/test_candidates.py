import pytest

from fglfast.base.errors import UsageError
from fglfast.lab.tuning.candidates import Grid, candidates
from fglfast.sampler.schedule import Sampling

ONE = {"steps": ["4"], "guidance": ["2"], "intervals": ["0:1"], "images_per_class": ["9"]}


def found(model, base=None, **lists):
    return candidates(Grid.parse(**(ONE | lists)), base or Sampling(), model)


def test_lists_are_repeated_or_have_commas():
    grid = Grid.parse(["4,8", " 12 "], ["1"], ["0:1, 0.2:0.8"], ["100", "200,"])
    assert grid.steps == (4, 8, 12) and grid.images_per_class == (100, 200)
    assert grid.intervals == ((0.0, 1.0), (0.2, 0.8))


@pytest.mark.parametrize(
    ("option", "text", "word"),
    [
        ("steps", "", "steps"),
        ("steps", "4,x", "integer"),
        ("steps", "0", "steps.0"),
        ("guidance", "nan", "guidance.0"),
        ("guidance", "51", "guidance.0"),
        ("intervals", ",", "intervals"),
        ("intervals", "0.3", "intervals.0"),
        ("intervals", "0.8:0.2", "0.8:0.2"),
        ("intervals", "0.5:0.5", "empty"),
        ("intervals", "0:2", "intervals.0.1"),
        ("intervals", "0:1:1", "intervals.0"),
        ("images_per_class", "0", "images_per_class.0"),
    ],
)
def test_a_bad_list_is_one_clear_line(option, text, word):
    with pytest.raises(UsageError, match=word) as refused:
        Grid.parse(**(ONE | {option: [text]}))
    assert "\n" not in refused.value.message and "--interval" in refused.value.hint


def test_every_combination_is_tried_once(random_mini):
    made = found(random_mini, steps=["4,8,4"], guidance=["1.5,2"], images_per_class=["9,10"])
    assert len(made) == 2 * 2 * 2 and len({candidate.name for candidate in made}) == 8


def test_candidates_that_draw_the_same_images_collapse(random_mini):
    unguided = found(random_mini, guidance=["1"], intervals=["0:1,0.2:0.8,0.4:0.6"])
    assert [candidate.name for candidate in unguided] == ["steps4-guidance1-images9"]
    nowhere = found(random_mini, guidance=["1,2,3"], intervals=["0.001:0.002"])  # no step lies there
    assert [candidate.name for candidate in nowhere] == ["steps4-guidance1-images9"]
    guided = found(random_mini, intervals=["0.00001:1,0:1,0.3:0.8,0.31:0.8"])
    assert [candidate.name for candidate in guided] == [
        "steps4-guidance2-images9",
        "steps4-guidance2-interval0.3-0.8-images9",
    ]


def test_the_rest_of_the_recipes_sampling_is_kept(random_mini):
    base = Sampling(steps=4, scheduler="flow-euler", timesteps=(1000.0, 700.0, 300.0, 100.0))
    few, more = found(random_mini, base, steps=["4,5"])
    assert few.sampling.timesteps == base.timesteps and more.sampling.timesteps is None
    assert more.sampling.scheduler == "flow-euler" and more.sampling.steps == 5
