from functools import partial

import pytest
from idle_engine import idle_engine


@pytest.fixture(scope="session")
def idle(random_mini):
    """Make an engine that computes nothing: (decoder, rows of a pass, name) -> Engine."""
    return partial(idle_engine, random_mini)
