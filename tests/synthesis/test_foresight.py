"""A dry run: nothing is compiled, and of a hub's model nothing but configs and tokenizer is fetched."""

import json
import re

import pytest
from fake_hub import NAME
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.engine import build, choice, contest, making
from fglfast.engine.build import is_built
from fglfast.engine.recipe import Recipe
from fglfast.payload import save_payload
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.foresight import foreseen
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import plan_synthesis
from fglfast.verbs.app import app

SETTINGS = SynthesisSettings(images_per_class=7, shard_size=8, sampling=Sampling(steps=3, guidance_scale=2.0))


@pytest.fixture
def uncompiled(monkeypatch):
    """Whoever begins to compile fails."""
    monkeypatch.setattr(making, "compiled", lambda *_: pytest.fail("an engine was compiled"))
    monkeypatch.setattr(contest, "compiled", lambda *_: pytest.fail("engines were compiled"))


@pytest.fixture
def local(recipe, random_mini):
    return recipe.model_copy(update={"model": str(random_mini)})


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_without_an_engine_the_plan_is_known_and_the_time_is_not(backend, local, engine, merged, tmp_path, uncompiled):
    asked = local.model_copy(update={"backend": backend})
    planned = foreseen(asked, merged, SETTINGS, tmp_path / "out", tmp_path / "engines")
    assert planned["seconds"] is None and not any(tmp_path.iterdir())
    assert planned["plan"] == plan_synthesis(engine, merged, SETTINGS).digest()
    assert (planned["images"], planned["shards"], planned["passes"]) == (21, 3, (2 * 2 + 2) * 3)


def test_with_an_engine_the_time_is_measured(local, engine, merged, tmp_path, uncompiled):
    planned = foreseen(local, merged, SETTINGS, tmp_path / "out", engine.folder.parent)
    assert planned["seconds"] > 0 and planned["plan"] == plan_synthesis(engine, merged, SETTINGS).digest()


def test_what_auto_chose_before_is_found(local, random_mini, engine, tmp_path):
    asked, engines = local.model_copy(update={"backend": "auto"}), engine.folder.parent
    keys = build.keys_of(asked, random_mini)
    path = choice.choice_file(keys, engines)
    if path.exists():
        pytest.skip("another test chose")
    assert not is_built(asked, random_mini, engines)
    times = {choice.name_of(key): 1.0 + (key.build.backend != "openvino") for key in keys}
    path.write_text(json.dumps(times))
    assert is_built(asked, random_mini, engines)
    path.write_text(json.dumps(times | {choice.name_of(keys[0]): 0.5}))
    assert is_built(asked, random_mini, engines) == (engines / keys[0].digest()).exists()
    path.unlink()


def test_of_a_hubs_model_no_weights_are_fetched(hub, merged, tmp_path, uncompiled):
    asked = Recipe(model=NAME, backend="torch", image_size=32)
    planned = foreseen(asked, merged, SETTINGS, tmp_path / "out", tmp_path / "engines")
    assert hub.fetched and hub.weights == []
    assert (planned["images_left"], planned["plan"], planned["seconds"]) == (21, None, None)


def test_once_they_are_here_the_payloads_are_compared_with_them(hub, merged, payload, tmp_path, uncompiled):
    asked = Recipe(model=NAME, backend="torch", image_size=32)
    asked.model_folder()
    planned = foreseen(asked, merged, SETTINGS, tmp_path / "out", tmp_path / "engines")
    assert planned["plan"] and planned["seconds"] is None
    (hub.cache / NAME.replace("/", "--") / "text_encoder" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(BadInputError, match="text encoder"):
        foreseen(asked, merged, SETTINGS, tmp_path / "out", tmp_path / "engines")


def test_the_verb_says_so(hub, payload, tmp_path, uncompiled):
    save_payload(payload("ann", (3, 0, 1)), tmp_path / "ann.safetensors")
    asked = ["synthesize", "--embeddings", str(tmp_path / "ann.safetensors"), "--out", str(tmp_path / "out")]
    asked += ["--model", NAME, "--engines", str(tmp_path / "engines"), "--dry-run"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert re.search(r"^disk: [\d.]+ [KM]B at most, [\d.,]+ GB are free$", done.stdout, re.MULTILINE)
    assert "engine is built" in done.stdout and "recipe mini" in done.stderr and hub.weights == []
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert found["seconds"] is None and found["images"] == 1000 and not (tmp_path / "engines").exists()
    unpacked = json.loads(CliRunner().invoke(app, [*asked, "--format", "parquet", "--json"]).stdout)
    assert unpacked["bytes_at_most"] == 2 * found["bytes_at_most"]
