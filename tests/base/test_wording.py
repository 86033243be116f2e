import pytest

from fglfast.base.wording import beside, differences, duration, many, plain, size, some


def test_a_long_list_says_how_many_are_left_out():
    assert some(["ann", "bob"]) == "ann, bob" and some([]) == ""
    assert some([f"c{k}" for k in range(60)]) == "c0, c1, c2, c3, c4 and 55 more"
    assert some(range(1_234), most=2, between="; ") == "0; 1 and 1,232 more"


def test_differences_are_named_down_to_the_inner_fact():
    there = {"seed": 0, "payload of ann": "a" * 64, "sampling": {"steps": 25, "timesteps": None}, "gone": 1}
    here = {"seed": 1, "payload of ann": "b" * 64, "sampling": {"steps": 10, "timesteps": None}, "new_one": 1}
    words = differences(there, here)
    assert words.split("; ") == [
        *("seed 0 there, 1 here", "another payload of ann", "sampling.steps 25 there, 10 here"),
        *("gone there only", "new one here only"),
    ]
    assert differences(there, dict(there)) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3.14, "3.1 s"), (42, "42 s"), (200, "3 min 20 s"), (12_000, "3 h 20 min"), (282_122.4, "78 h 22 min")],
)
def test_times_are_in_units_that_tell_something(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "noun", "words"), [(1, "class", "1 class"), (2, "class", "2 classes"), (0, "image", "0 images")]
)
def test_one_is_no_plural(count, noun, words):
    assert many(count, noun) == words and many(2_000, "image") == "2,000 images"


def test_sizes_are_in_units_of_a_thousand():
    assert [size(count) for count in (999, 1_500, 460_800_000_000)] == ["999 B", "1.5 KB", "460.8 GB"]


@pytest.mark.parametrize(
    ("part", "words"), [(0, "1/2,000 of"), (2, "1/1,000 of"), (2000, "1/1 of"), (5000, "2.5 times")]
)
def test_one_size_beside_another(part, words):
    assert beside(part, 2000) == words


def test_markdown_shows_plain_text_as_it_is():
    assert plain("a_b & <b>") == "a\\_b \\& \\<b\\>" and plain("日本語 t-shirt") == "日本語 t-shirt"
    assert [plain(text) for text in ("- a", "1. a", "12", ".a")] == ["\\- a", "1\\. a", "12", "\\.a"]
