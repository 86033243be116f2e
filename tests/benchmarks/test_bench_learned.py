"""What the benchmark of learned embeddings works out before and after it measures."""

import numpy as np

from benchmarks.columns import learned
from benchmarks.learned import transformed
from fglfast.images.dataset import read_dataset


def test_a_domain_is_the_same_images_transformed():
    plain = read_dataset("fashion:test").select(range(3))
    pixels = plain.pixels(1, 28)
    assert np.array_equal(transformed(plain, "inverted").pixels(1, 28), 255 - pixels)
    assert np.array_equal(transformed(plain, "rotated").pixels(1, 28), np.rot90(pixels))
    assert np.array_equal(transformed(plain, "unchanged").pixels(1, 28), pixels)
    assert transformed(plain, "inverted").labels is plain.labels


def test_the_table_has_a_line_a_domain_and_a_column_a_kind_of_prompt():
    rows = [
        {"domain": domain, "prompts": prompts, "runs": [{"test": test}, {"test": test + 0.1}]}
        for domain, tests in (("inverted", (0.1, 0.5)), ("plain", (0.8, 0.7)))
        for prompts, test in zip(("class-level", "learned"), tests, strict=True)
    ]
    head, lines = learned({"rows": rows})
    assert head == ("domain", "class-level", "learned")
    assert lines[0] == ("inverted", "15.0% (10.0% to 20.0%)", "55.0% (50.0% to 60.0%)") and lines[1][0] == "plain"
