import numpy as np
import pytest

from fglfast.attributes import describe
from fglfast.client.prompts import PromptRow, class_level_prompts, instance_level_prompts
from fglfast.errors import UsageError


def test_class_level_has_a_row_for_each_class_that_is_held():
    rows = class_level_prompts(("cat", "dog"), [0, 7], "a {label}")
    assert rows == [PromptRow(1, "a dog", 7)]


def test_equal_instance_prompts_become_one_row_with_a_count():
    images = [np.full((8, 8, 3), value, np.uint8) for value in (10, 10, 200)]
    rows = instance_level_prompts(images, [0, 0, 0], ("cat",), "{label}, {caption}", lambda i: str(i.mean()))
    assert [(row.prompt, row.count) for row in rows] == [("cat, 10.0", 2), ("cat, 200.0", 1)]


@pytest.mark.parametrize("template", ["no field", "{label} {colour}", "{label", "{caption}"])
def test_bad_templates_are_refused(template):
    with pytest.raises(UsageError):
        class_level_prompts(("cat",), [1], template)


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
