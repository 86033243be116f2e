"""A client kit from the server that writes it to the server that takes what was embedded with it."""

import json
import shutil

import numpy as np
import pytest
from fake_hub import NAME, FakeHub
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.client.embed import class_list, embed
from fglfast.generator.kit import check_kit, write_kit
from fglfast.generator.parts import bundled
from fglfast.generator.text import native_image_size, resolve_text, text_fingerprint
from fglfast.payload import load_payload, save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.synthesis.conditioning import check_fit
from fglfast.verbs.app import app

NAMES = ("bag", "T-Shirt", "ankle boot", "Größe 42, ein sehr langer Name " * 3)


@pytest.fixture(scope="module", params=["mini", "sd15", "sdxl"])
def model(request, narrow):
    return bundled("mini") if request.param == "mini" else narrow(request.param)


@pytest.mark.parametrize("weights", [False, True])
def test_a_kit_sends_what_the_whole_generator_would(weights, model, tmp_path):
    kit, client = tmp_path / "kit", class_list(NAMES)
    write_kit(model, kit, "m", native_image_size(model), weights)
    assert not list(kit.glob("unet/*")) and bool(list(kit.rglob("*.safetensors"))) == weights
    assert text_fingerprint(kit) == text_fingerprint(model) and native_image_size(kit) == native_image_size(model)
    files = {}
    for name, folder in (("kit", resolve_text(str(kit))), ("model", model)):
        save_payload(embed(client, "ann", folder, send="tokens"), tmp_path / f"{name}.safetensors")
        files[name] = (tmp_path / f"{name}.safetensors").read_bytes()
    assert files["kit"] == files["model"]
    if weights:
        sent, full = (embed(client, "ann", folder) for folder in (kit, model))
        assert np.array_equal(sent.embeddings, full.embeddings) and sent.header == full.header
    else:
        with pytest.raises(UsageError, match="weights"):
            embed(client, "ann", kit)


def test_the_server_takes_what_was_embedded_with_its_kit(mini_kit, tmp_path):
    sent = embed(class_list(NAMES[:3]), "ann", mini_kit, send="tokens")
    save_payload(sent, tmp_path / "ann.safetensors")
    merged = merge_payloads([load_payload(tmp_path / "ann.safetensors")])
    for name in ("mini", "mini-few"):  # the student shares its teacher's text side
        check_fit(merged, bundled(name))


def test_the_verb_writes_a_small_kit_and_replaces_only_a_kit(tmp_path):
    out = tmp_path / "kit"
    done = CliRunner().invoke(app, ["kit", "--out", str(out), "--json"])
    said = json.loads(done.stdout)
    assert said["bytes"] < 100_000 and said["text_encoder"] == text_fingerprint(bundled("mini"))
    assert said["bytes"] == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    again = json.loads(CliRunner().invoke(app, ["kit", "--out", str(out), "--weights", "--json"]).stdout)
    assert again["bytes"] > 500_000 and again["text_encoder"] == said["text_encoder"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.png").write_bytes(b"")
    refused = CliRunner().invoke(app, ["kit", "--out", str(tmp_path / "photos")])
    assert refused.exit_code == 2 and (tmp_path / "photos" / "dear.png").exists()


@pytest.mark.parametrize("others", [["--model", "mini-few"], ["--learn"]])
def test_a_kit_stands_in_for_the_model(others, mini_kit, tmp_path):
    out = str(tmp_path / "a.safetensors")
    done = CliRunner().invoke(app, ["embed", "fashion:test", "--out", out, "--kit", str(mini_kit), *others])
    assert done.exit_code == 2 and "--kit" in done.stderr


def listed(kit, **changes):
    path = kit / "kit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def renamed(kit, name):
    """A list in which a file of the kit has another name."""
    files = json.loads((kit / "kit.json").read_text())["files"]
    listed(kit, files={**files, name: "0" * 64})


def linked(kit):
    (kit.parent / "secret.json").write_text("{}")
    (kit / "tokenizer" / "more.json").symlink_to(kit.parent / "secret.json")


HARM = {
    "no list": lambda kit: (kit / "kit.json").unlink(),
    "no JSON": lambda kit: (kit / "kit.json").write_text("{"),
    "a later version": lambda kit: listed(kit, format_version=2),
    "an unknown key": lambda kit: listed(kit, more=1),
    "no files": lambda kit: listed(kit, files={}),
    "no size": lambda kit: listed(kit, image_size=0),
    "a huge size": lambda kit: listed(kit, image_size=1 << 20),
    "a huge list": lambda kit: (kit / "kit.json").write_text(" " * (2 << 20)),
    "many files": lambda kit: listed(kit, files={f"tokenizer/{n}.json": "0" * 64 for n in range(500)}),
    "a name that climbs": lambda kit: renamed(kit, "tokenizer/../../x.json"),
    "a name elsewhere": lambda kit: renamed(kit, "unet/config.json"),
    "a missing file": lambda kit: (kit / "tokenizer" / "tokenizer.json").unlink(),
    "an altered file": lambda kit: (kit / "tokenizer" / "tokenizer_config.json").write_text("{}"),
    "a file more": lambda kit: (kit / "tokenizer" / "added_tokens.json").write_text("{}"),
    "other weights": lambda kit: (kit / "text_encoder" / "model.safetensors").write_bytes(b"x"),
    "altered prompts": lambda kit: (kit / "prompts.json").write_text('{"negative": "pretty"}'),
    "no prompts": lambda kit: (kit / "prompts.json").unlink(),
    "prompts that are not listed": lambda kit: listed(kit, others={}),
    "another list": lambda kit: listed(kit, others={"README.md": "0" * 64}),
    "a file at the top": lambda kit: (kit / "blocks.json").write_text("{}"),
    "a part that draws": lambda kit: (kit / "vae").mkdir(),
    "a link out": linked,
    "code": lambda kit: (kit / "text_encoder" / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}'),
}


@pytest.mark.parametrize("kind", HARM)
def test_a_strangers_kit_is_checked_before_it_is_used(kind, mini_kit, tmp_path):
    shutil.copytree(mini_kit, tmp_path / "kit")
    HARM[kind](tmp_path / "kit")
    with pytest.raises(BadInputError):
        check_kit(tmp_path / "kit")


def test_a_kit_made_before_prompts_were_listed_is_taken_as_it_was(mini_kit, tmp_path):
    shutil.copytree(mini_kit, tmp_path / "kit")
    says = json.loads((tmp_path / "kit" / "kit.json").read_text())
    del says["others"]
    (tmp_path / "kit" / "kit.json").write_text(json.dumps(says))
    (tmp_path / "kit" / "prompts.json").write_text('{"negative": "pretty"}')
    assert check_kit(tmp_path / "kit").others is None
    assert text_fingerprint(tmp_path / "kit") == text_fingerprint(mini_kit)


def test_a_word_to_its_reader_may_lie_in_a_kit(mini_kit, tmp_path):
    shutil.copytree(mini_kit, tmp_path / "kit")
    (tmp_path / "kit" / "README.md").write_text("for the clients of the hospitals")
    (tmp_path / "kit" / "._prompts.json").write_bytes(b"what an archive of a Mac leaves")
    assert check_kit(tmp_path / "kit")


def test_of_a_hub_id_only_the_text_side_is_fetched(narrow, tmp_path, monkeypatch):
    model = narrow("sdxl")
    (tmp_path / "hub" / NAME).parent.mkdir(parents=True)
    (tmp_path / "hub" / NAME).symlink_to(model)
    hub = FakeHub(tmp_path / "hub", tmp_path / "cache").install(monkeypatch)
    folder = resolve_text(NAME)
    assert {name.partition("/")[0] for name in hub.weights} == {"text_encoder", "text_encoder_2"}
    assert text_fingerprint(folder) == text_fingerprint(model)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(BadInputError, match="text_encoder_2"):
        resolve_text(str(folder))


def test_a_text_side_without_weights_is_no_kit(mini_kit, tmp_path):
    shutil.copytree(mini_kit, tmp_path / "kit")
    (tmp_path / "kit" / "kit.json").unlink()
    with pytest.raises(BadInputError, match="no safetensors weights"):
        resolve_text(str(tmp_path / "kit"))
