import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.base.errors import BadInputError, UsageError
from fglfast.shards.description import Description, write_description
from fglfast.shards.keep import LEFT_OUT, Keep, leave_out, left_out, places_left_out
from fglfast.shards.tar import Sample, encode_image, shard_name, write_shard

SCORES = (0.9, 0.1, 0.5, 0.5, 0.2, 0.8)  # classes alternate
PIXELS = encode_image(np.zeros((4, 4, 3), np.uint8), "png")


@pytest.fixture
def synthetic(tmp_path):
    return write(tmp_path, [{"score": score} for score in SCORES])


def write(folder, facts):
    samples = [Sample(f"{place:09d}", PIXELS, place % 2, each) for place, each in enumerate(facts)]
    for number in range(2):
        write_shard(folder / shard_name(number), samples[number * 3 : number * 3 + 3], "png")
    description = Description(plan="ab", class_names=("a", "b"), images=len(facts), shards=2, image_size=4)
    write_description(folder, description)
    return folder, description


@pytest.mark.parametrize(
    ("keep", "out"),
    [("0.5", [1, 4]), ("100%", []), ("67%", [1, 4]), ("34%", [1, 2, 3, 4]), ("1%", [1, 2, 3, 4]), ("0", [])],
)
def test_a_bound_and_a_share_of_each_class(synthetic, keep, out):
    assert leave_out(*synthetic, keep).tolist() == out == left_out(*synthetic).tolist()
    assert json.loads((synthetic[0] / LEFT_OUT).read_text())["keep"] == keep


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1), st.integers(1, 100))
def test_of_each_class_the_best_stay(images, percent):
    scores, labels = np.array([score for score, _ in images]), np.array([label for _, label in images])
    out = Keep.parse(f"{percent}%").leaves_out(scores, labels)
    for label in set(labels.tolist()):
        own = set(np.flatnonzero(labels == label).tolist())
        gone, stay = own & set(out.tolist()), own - set(out.tolist())
        assert len(stay) == max(1, round(percent / 100 * len(own)))
        assert not gone or not stay or scores[list(gone)].max() <= scores[list(stay)].min()


@pytest.mark.parametrize("chosen", [leave_out, places_left_out])
def test_a_class_of_which_nothing_is_kept_is_named(synthetic, chosen, capsys):
    chosen(*synthetic, "0.5")
    assert capsys.readouterr().err == ""
    assert chosen(*synthetic, "0.85").tolist() == [1, 2, 3, 4, 5]
    assert "--keep 0.85 leaves no image of b; a share" in capsys.readouterr().err


@pytest.mark.parametrize("chosen", [leave_out, places_left_out])
def test_a_bound_that_leaves_no_image_is_refused_and_nothing_is_written(synthetic, chosen):
    with pytest.raises(BadInputError, match=r"--keep 0\.95 leaves no image, as the highest score is 0\.9$"):
        chosen(*synthetic, "0.95")
    assert not (synthetic[0] / LEFT_OUT).exists()


def test_nothing_is_left_out_without_a_list(synthetic):
    assert left_out(*synthetic).tolist() == []


@pytest.mark.parametrize("keep", ["90", "0%", "-0.1", "101%", "most", "", "nan", "nan%"])
def test_what_is_neither_is_refused(keep):
    with pytest.raises(UsageError):
        Keep.parse(keep)


@pytest.mark.parametrize("facts", [{}, {"score": "high"}, {"score": 2}])
def test_images_without_a_score_are_named(tmp_path, facts):
    folder, description = write(tmp_path, [{"score": 0.5}] * 4 + [facts] * 2)
    with pytest.raises(BadInputError, match=r"train-000001\.tar: 000000004\.png"):
        leave_out(folder, description, "0.5")


@pytest.mark.parametrize(
    "listed",
    ["{}", "[]", '{"plan": "ab", "images": [2, 1]}', '{"plan": "ab", "images": [6]}', '{"plan": "cd", "images": []}'],
)
def test_a_list_of_other_images_is_refused(synthetic, listed):
    folder, description = synthetic
    (folder / LEFT_OUT).write_text(listed)
    with pytest.raises(BadInputError, match=LEFT_OUT):
        left_out(folder, description)
