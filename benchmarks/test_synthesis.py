"""End to end, payload rows to shards on each backend; encoding and writing alone."""

import pytest

from benchmarks.conftest import BATCH, GUIDED
from fglfast.lab.bench.work import Encoding, Synthesis


def test_end_to_end(timed, engine):
    timed(Synthesis(engine, GUIDED, 2 * BATCH), 2 * BATCH)


@pytest.mark.parametrize("side", [32, 512])
@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_encode_and_write(timed, image_format, side):
    timed(Encoding(image_format, side, 32), 32)
