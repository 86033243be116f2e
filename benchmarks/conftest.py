"""What the pytest benchmarks share: the bundled generator's engines, and nothing about whose machine it is."""

from pathlib import Path

import pytest

from fglfast.engine.backends import installed
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import find_recipe
from fglfast.generator.text import resolve_model
from fglfast.lab.bench.measure import contenders
from fglfast.sampler.schedule import Sampling

BATCH = 64
GUIDED = Sampling(steps=20, guidance_scale=2.0)
SECONDS = 3600  # the suite's own limit is for tests that hang; a slow machine is none


def pytest_collection_modifyitems(items):
    """Give every benchmark the time it takes."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(SECONDS))


def pytest_benchmark_update_machine_info(config, machine_info):
    """Leave out the host's name: results are published."""
    machine_info.pop("node", None)


@pytest.fixture(scope="session", params=installed())
def engine(request, tmp_path_factory):
    """The bundled generator on one backend, in batches of 64."""
    (recipe,) = contenders(find_recipe("mini"), [request.param], BATCH)
    return build_engine(recipe, resolve_model("mini"), tmp_path_factory.mktemp("engines"))


@pytest.fixture
def timed(benchmark):
    """Time a piece of work that makes some images: one round warms up, five count."""

    def run(work, images):
        benchmark.pedantic(work, rounds=5, warmup_rounds=1, iterations=1)
        if benchmark.stats:  # None under --benchmark-disable
            benchmark.extra_info["images_per_second"] = round(images / benchmark.stats.stats.median, 2)

    return run
