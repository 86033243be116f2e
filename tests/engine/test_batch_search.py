import json
import shutil

import pytest

from fglfast.base.errors import FglError
from fglfast.engine import batch_search, export, quantize
from fglfast.engine.backends import ov
from fglfast.engine.batch_search import FIELDS
from fglfast.engine.build import build_engine
from fglfast.engine.exported import DECODER, UNET
from fglfast.engine.finding import Source


@pytest.fixture
def pace(monkeypatch):
    """Let a pass take what a function of network and rows says; what was tried is listed."""

    def install(seconds):
        tried = []

        def taken(name, build, *_):
            rows = getattr(build, FIELDS[name])
            tried.append((name, rows))
            return seconds(name, rows)

        monkeypatch.setattr(batch_search, "_seconds", taken)
        return tried

    return install


def full_above(rows_by_network):
    def seconds(name, rows):
        if rows > rows_by_network[name]:
            raise MemoryError
        return 1.0

    return seconds


def test_batches_grow_until_it_is_no_faster_and_are_remembered(pace, random_mini, torch_recipe, engines):
    best = {UNET: 8, DECODER: 4}
    tried = pace(lambda name, rows: rows * (1.0 + abs(best[name] - rows) / 10))
    found = batch_search.search_batches(torch_recipe, random_mini, engines)
    assert (found.unet_batch, found.vae_batch, found.backend) == (8, 4, "torch")
    assert [rows for name, rows in tried if name == UNET] == [2, 4, 8, 16]
    assert [rows for name, rows in tried if name == DECODER] == [2, 4, 8]
    assert json.loads(next(engines.glob("batches-*.json")).read_text()) == best
    tried.clear()
    other = torch_recipe.model_copy(update={"unet_batch": 4})
    assert batch_search.search_batches(other, random_mini, engines).unet_batch == 8 and tried == []
    assert not list(engines.glob(".batches-*building*"))


def test_what_a_killed_search_left_is_gone(pace, random_mini, torch_recipe, engines):
    pace(lambda name, rows: 1.0)
    batch_search.search_batches(torch_recipe, random_mini, engines)
    [known] = engines.glob("batches-*.json")
    known.unlink()
    left = engines / f".{known.name}.building-killed"
    (left / "plan").mkdir(parents=True)
    batch_search.search_batches(torch_recipe, random_mini, engines)
    assert known.exists() and not left.exists()


def test_what_does_not_fit_one_network_does_not_bound_the_other(pace, random_mini, torch_recipe, engines):
    pace(full_above({UNET: 16, DECODER: 2}))
    found = batch_search.search_batches(torch_recipe, random_mini, engines)
    assert (found.unet_batch, found.vae_batch) == (16, 2)


def test_where_nothing_fits_it_is_said(pace, random_mini, torch_recipe, engines):
    pace(full_above({UNET: 0, DECODER: 8}))
    with pytest.raises(FglError, match="unet: 2 rows"):
        batch_search.search_batches(torch_recipe, random_mini, engines)
    assert not list(engines.glob("batches-*.json"))


def test_memory_that_would_run_out_ends_the_search(pace, monkeypatch, random_mini, torch_recipe, engines):
    free = iter([100, 90, 100, 70, 100, 70])  # before and after each; the next takes two and a half times as much
    tried = pace(lambda name, rows: 1.0)
    monkeypatch.setattr(batch_search.psutil, "virtual_memory", lambda: type("Memory", (), {"available": next(free)}))
    batch_search.search_batches(torch_recipe, random_mini, engines)
    assert tried == [(UNET, 2), (UNET, 4), (DECODER, 2)]


def test_what_an_engine_was_compiled_from_may_be_gone(random_mini, recipe, engines, monkeypatch):
    monkeypatch.setattr(batch_search, "CANDIDATES", (2,))
    assert not build_engine(recipe, random_mini, engines).cached
    [folder] = engines.glob("exported-*")
    kept = folder.rename(engines / "kept")
    monkeypatch.setattr(export, "export", lambda *given: shutil.copytree(kept, given[2], dirs_exist_ok=True))
    found = batch_search.search_batches(recipe, random_mini, engines)
    assert (found.unet_batch, found.vae_batch) == (2, 2) and folder.exists()


@pytest.mark.parametrize("name", FIELDS)
def test_a_pass_is_timed(name, random_mini, torch_recipe, tmp_path):
    build = torch_recipe.build("torch", "float32").model_copy(update={FIELDS[name]: 2})
    source = Source(random_mini, 32, torch_recipe.sampling, tmp_path)
    assert 0 < batch_search._seconds(name, build, source, tmp_path, tmp_path) < 10


@pytest.fixture
def quantizations(monkeypatch):
    """Let the processor have int8, and a network be quantized by leaving it as it is; what was is listed."""
    made = []

    def unchanged(network, name, folder, bound):
        assert network.input(0).partial_shape[0].is_dynamic
        made.append(name)
        return network

    monkeypatch.setattr(ov, "native_int8", lambda: True)
    monkeypatch.setattr(export, "save_calibration", lambda *_: None)
    monkeypatch.setattr(quantize, "quantized", unchanged)
    return made


def test_engines_that_differ_in_batch_alone_share_the_quantized_networks(
    quantizations, monkeypatch, random_mini, recipe, engines
):
    monkeypatch.setattr(batch_search, "CANDIDATES", (2,))  # an engine of other batches is built before
    found = batch_search.search_batches(recipe.model_copy(update={"precision": "int8"}), random_mini, engines)
    assert (found.unet_batch, found.vae_batch) == (2, 2) and quantizations == [UNET, DECODER]


def test_what_decides_a_quantized_network_names_it(quantizations, monkeypatch, engines):
    [folder] = engines.glob("exported-*")
    first = quantize.quantized_once(DECODER, folder, 0.08)
    others = {quantize.quantized_once(DECODER, folder, 0.07)}
    for fact, value in (("version", "0.1"), ("processor_name", "another"), ("cores", 1000)):
        with monkeypatch.context() as patched:
            patched.setattr(quantize, fact, lambda *_, value=value: value)
            others.add(quantize.quantized_once(DECODER, folder, 0.08))
    assert len(others - {first}) == 4 and quantizations == 5 * [DECODER]
    assert quantize.quantized_once(DECODER, folder, 0.08) == first and len(quantizations) == 5


def test_a_quantization_that_fails_leaves_nothing(quantizations, monkeypatch, engines):
    def fails(*_):
        raise MemoryError

    [folder] = engines.glob("exported-*")
    with monkeypatch.context() as patched:
        patched.setattr(quantize, "quantized", fails)
        with pytest.raises(MemoryError):
            quantize.quantized_once(UNET, folder, 0.08)
    assert quantize.quantized_once(UNET, folder, 0.08).exists() and quantizations == [UNET]
