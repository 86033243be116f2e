import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fglfast.base.errors import UsageError
from fglfast.client.prompts import (
    PromptRow,
    before,
    check_own,
    class_level_prompts,
    encodable,
    essence,
    instance_level_prompts,
)
from fglfast.images.attributes import describe


def test_class_level_has_a_row_for_each_class_that_is_held():
    rows = class_level_prompts(("cat", "dog"), [0, 7], "a {label}")
    assert rows == [PromptRow(1, "a dog", 7)]


def test_equal_instance_prompts_become_one_row_with_a_count():
    rows = instance_level_prompts(["small", "small", "big"], [0, 0, 0], ("cat",), "{label}, {caption}")
    assert [(row.prompt, row.count) for row in rows] == [("cat, big", 1), ("cat, small", 2)]


def test_nearly_identical_prompts_become_one_row_worded_as_most_are():
    captions = ["A cat.", "a  cat", "a cat", "a cat", "a cat \u2013", "two cats", "a cat"]
    rows = instance_level_prompts(captions, [0] * 6 + [1], ("cat", "dog"), "{label}, {caption}")
    assert [(row.label, row.prompt, row.count) for row in rows] == [
        (0, "cat, a cat", 5),
        (0, "cat, two cats", 1),
        (1, "dog, a cat", 1),
    ]


def test_a_caption_may_stand_alone():
    rows = instance_level_prompts(["pear", "tie"], [0, 1], ("food", "things"), "{caption}, sketch")
    assert [(row.label, row.prompt) for row in rows] == [(0, "pear, sketch"), (1, "tie, sketch")]
    with pytest.raises(UsageError, match="has fields"):
        instance_level_prompts(["pear"], [0], ("food",), "sketch")


@given(st.text())
def test_the_essence_of_a_prompt_is_its_own(text):
    assert essence(essence(text)) == essence(text) == essence(f" {text}!")


@pytest.mark.parametrize("template", ["no field", "{label} {colour}", "{label", "{caption}"])
def test_bad_templates_are_refused(template):
    with pytest.raises(UsageError):
        class_level_prompts(("cat",), [1], template)


@pytest.mark.parametrize(("template", "reason"), [("", "empty"), (" ", "empty"), ("{label} \udcff", "not UTF-8")])
def test_a_users_own_template_that_is_refused_is_named(template, reason):
    with pytest.raises(UsageError, match="--template") as refused:
        check_own(template)
    assert repr(template) in refused.value.message and reason in refused.value.message
    check_own("{label}, é 犬 \U0001f600")


def test_half_a_letter_cannot_be_encoded():
    assert encodable("\U0001f600") and not encodable("bad \ud83d")


def box(height, width, shade, stripes=False):
    image = np.zeros((32, 32, 3), np.uint8)
    image[2 : 2 + height, 2 : 2 + width] = shade
    if stripes:
        image[2 : 2 + height : 2, 2 : 2 + width] = shade // 3
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (box(28, 10, 220), "light plain narrow"),
        (box(10, 28, 80), "dark plain wide"),
        (box(20, 20, 150), "medium plain square"),
        (box(20, 20, 240, stripes=True), "medium patterned square"),
    ],
)
def test_attributes_are_measured(image, words):
    assert describe(image) == words


def test_a_blank_image_is_described_too():
    assert describe(np.zeros((8, 8, 3), np.uint8)) == "dark plain square"


@pytest.mark.parametrize("template", ["{label:>1000000000}", "{label!r}", "{label:{label}}", "{label.__class__}"])
def test_a_template_formats_nothing(template):
    """A model folder brings its own templates, and a format can ask for a gigabyte of spaces."""
    with pytest.raises(UsageError):
        class_level_prompts(("cat",), [1], template)


def test_what_stands_before_a_field_is_a_template():
    assert before("a {{b}} {label}, {caption}", "caption") == "a {{b}} {label}, "
    assert before("{label}", "label") == "" and before("{label}", "caption") is None
