import json

import pytest

from fglfast.engine import batch_search
from fglfast.engine.export import DECODER, UNET


@pytest.fixture
def clock(monkeypatch):
    """Seconds of a pass by rows: a machine that is fastest at 8 rows in the UNet, at 4 in the decoder."""
    tried = []

    def seconds(network, *inputs):
        rows = len(inputs[0])
        tried.append((rows, len(inputs)))
        best = 8 if len(inputs) == 3 else 4
        return rows * (1.0 + abs(best - rows) / 10)

    monkeypatch.setattr(batch_search, "_seconds", seconds)
    return tried


def test_batches_grow_until_it_is_no_faster_and_are_remembered(clock, random_mini, recipe, engines):
    torch_recipe = recipe.model_copy(update={"backend": "torch"})
    found = batch_search.search_batches(torch_recipe, random_mini, engines)
    assert (found.unet_batch, found.vae_batch, found.backend) == (8, 4, "torch")
    assert [rows for rows, inputs in clock if inputs == 3] == [2, 4, 8, 16]
    assert json.loads(next(engines.glob("batches-*.json")).read_text()) == {UNET: 8, DECODER: 4}
    clock.clear()
    other = torch_recipe.model_copy(update={"unet_batch": 4})
    assert batch_search.search_batches(other, random_mini, engines).unet_batch == 8 and clock == []
    assert not list(engines.glob(".search-*"))


def test_what_does_not_fit_is_not_taken(monkeypatch, random_mini, recipe, engines):
    def seconds(network, *inputs):
        if len(inputs[0]) > 4:
            raise MemoryError
        return 1.0

    monkeypatch.setattr(batch_search, "_seconds", seconds)
    found = batch_search.search_batches(recipe.model_copy(update={"backend": "torch"}), random_mini, engines)
    assert (found.unet_batch, found.vae_batch) == (4, 4)


def test_memory_that_would_run_out_ends_the_search(monkeypatch, random_mini, recipe, engines):
    free = iter([100, 70, 100, 40, 100, 40])
    monkeypatch.setattr(batch_search, "_seconds", lambda network, *inputs: 1.0)
    monkeypatch.setattr(batch_search.psutil, "virtual_memory", lambda: type("Memory", (), {"available": next(free)}))
    found = batch_search.search_batches(recipe.model_copy(update={"backend": "torch"}), random_mini, engines)
    assert found.unet_batch == 2
