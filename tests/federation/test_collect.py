"""Payloads as a server receives them: from strangers."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from small_federation import CLASSES, write_images

from fglfast.base.errors import BadInputError, FglError, IncompleteError, UsageError
from fglfast.client.embed import embed
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.federation import client_app, wire
from fglfast.federation.arena import run_experiment
from fglfast.federation.collect import collect_again, collect_payloads, merged_payloads, take_place
from fglfast.federation.grid import CountedGrid
from fglfast.federation.loopback import LoopbackGrid
from fglfast.generator.inventory import load_inventory, save_inventory
from fglfast.images.dataset import read_dataset
from fglfast.payload import load_payload, open_signer, save_payload
from fglfast.payload.keys import find_or_make_key
from fglfast.payload.merge import merge_payloads
from fglfast.training.model import build_model, model_of


def sent(made, folder, **header):
    """The file of a payload that says something else of itself."""
    path = folder / f"sent-{made.header.client}"
    save_payload(replace(made, header=made.header.model_copy(update=header)), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def payload_bytes(private, random_mini, tmp_path_factory):
    folder, dataset = tmp_path_factory.mktemp("payloads"), read_dataset(private)
    return lambda name, classes=CLASSES: sent(embed(dataset.named(classes), name, random_mini), folder)


def simulated(asked, folder):
    """The grid of an experiment's clients."""
    (folder / "asked.toml").write_text(asked.to_toml())
    run = {"experiment": str(folder / "asked.toml"), "seed": 0}
    return CountedGrid(LoopbackGrid(client_app.app, [0, 1, 2], run), timeout=60, least=2)


def grid_of(*contents, least=2, told=None):
    """Clients that answer with given bytes; what the server tells those that it turns away goes into `told`."""
    told = [] if told is None else told
    app, calls = ClientApp(), []

    @app.query("refused")
    def refused(message, context):
        told.append((context.node_config["partition-id"], message.content.config_records[wire.CONFIG][wire.REFUSED]))
        return Message(RecordDict(), reply_to=message)

    @app.query("payload")
    def payload(message, context):
        calls.append(context.node_config["partition-id"])
        content = contents[context.node_config["partition-id"]]
        return Message(RecordDict({wire.CONFIG: ConfigRecord({wire.FILE: content})}), reply_to=message)

    return CountedGrid(LoopbackGrid(app, list(range(len(contents))), {}), timeout=10, least=least), calls


def collect(grid, experiment, folder):
    took = collect_payloads(grid, experiment, CLASSES, folder)
    return sorted(folder.glob("*.safetensors")), took


def test_sound_payloads_are_kept_and_weighed(payload_bytes, experiment, tmp_path):
    contents = [payload_bytes("ann"), payload_bytes("bob")]
    grid, _ = grid_of(*contents)
    paths, collected = collect(grid, experiment, tmp_path)
    assert [load_payload(path).header.client for path in paths] == ["ann", "bob"]
    assert 0 <= collected.bytes_up - sum(map(len, contents)) < 200


@pytest.mark.parametrize("bad", ["text", "truncated", "classes", "name", "lookalike"])
def test_what_is_not_sound_is_refused_by_itself(bad, payload_bytes, experiment, tmp_path, capsys):
    third, why = {
        "text": (b"not a payload", "header"),
        "truncated": (payload_bytes("eve")[:-100], "tensors"),
        "classes": (payload_bytes("eve", (*CLASSES, "coat")), "class names"),
        "name": (payload_bytes("ann"), "the name 'ann'"),
        "lookalike": (payload_bytes("ANN"), "that of node 2"),
    }[bad]
    told = []
    grid, _ = grid_of(payload_bytes("ann"), payload_bytes("bob"), third, told=told)
    paths, took = collect(grid, experiment, tmp_path)
    assert len(paths) == 2 and [(member.name, member.node) for member in took.members] == [("ann", 2), ("bob", 3)]
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("payloads: "))
    assert line.startswith("payloads: asked 3, answered 2; left out node 4: ") and why in line
    [(number, heard)] = told
    assert number == 2 and why in heard and str(tmp_path) not in heard, "who came second is told why"


def test_a_payload_that_comes_under_a_second_name_is_left_out(private, experiment, random_mini, tmp_path, capsys):
    learned = experiment.model_copy(update={"prompt_level": "learned"})
    made, draw = embed(read_dataset(private), "ann", random_mini), np.random.default_rng(0)
    made = replace(made, embeddings=draw.normal(size=made.embeddings.shape).astype(np.float16))
    contents = [sent(made, tmp_path, client=name, prompt_level="learned") for name in ("ann", "bob")]
    paths, _ = collect(grid_of(*contents, least=1)[0], learned, tmp_path / "kept")
    assert {load_payload(path).header.client for path in paths} == {"ann"}
    assert "'bob' sent the payload of node 2" in capsys.readouterr().err


def test_with_a_list_only_payloads_that_its_clients_signed_are_kept(private, experiment, random_mini, tmp_path, capsys):
    keys = {name: find_or_make_key(tmp_path / name)[0] for name in ("ann", "bob", "eve")}
    listed = "".join(f'{name} = "{key}"\n' for name, key in keys.items())
    (tmp_path / "allow.toml").write_text(f'federation = "here"\n[clients]\n{listed}')
    grid = LoopbackGrid(client_app.app, range(4), {})
    configs = [
        {"name": "ann", "sign": str(tmp_path / "ann"), "federation": "here"},
        {"name": "bob", "sign": str(tmp_path / "bob"), "federation": "here"},
        {"name": "eve", "sign": str(tmp_path / "ann"), "federation": "here"},
        {"name": "eve"},
    ]
    for (node, context), config in zip(grid.contexts.items(), configs, strict=True):
        told = {"data": private, "model": str(random_mini), **config}
        grid.contexts[node] = Context(context.run_id, node, told, RecordDict(), {})
    asked = experiment.model_copy(update={"allow": tmp_path / "allow.toml"})
    paths, _ = collect(CountedGrid(grid, timeout=10, least=2), asked, tmp_path / "kept")
    assert [load_payload(path, allowed=asked.allowed()).header.client for path in paths] == ["ann", "bob"]
    said = capsys.readouterr().err
    assert "signature: of key" in said and "'eve' has to sign" in said


def test_clients_learn_where_the_experiment_says_so(experiment, tmp_path):
    asked = experiment.model_copy(update={"prompt_level": "learned", "learn": LearnSettings(steps=2, vectors=2)})
    paths, _ = collect(simulated(asked, tmp_path), asked, tmp_path / "kept")
    payloads = [load_payload(path) for path in paths]
    assert len(payloads) == 3 and {payload.header.prompt_level for payload in payloads} == {"learned"}
    rows = [row.tobytes() for payload in payloads for row in payload.embeddings]
    assert len(set(rows)) == len(rows), "each client learns from its own images"


def test_clients_route_by_the_adapters_that_the_server_sends(experiment, adapters, tmp_path):
    routed = {"prompt_level": "routed", "route": RouteSettings(steps=2), "inventory": adapters}
    asked = experiment.model_copy(update=routed)
    took = collect_payloads(simulated(asked, tmp_path), asked, CLASSES, tmp_path / "kept")
    sizes = [path.stat().st_size for path in (tmp_path / "kept").glob("*.safetensors")]
    assert len(took.members) == 3 and max(sizes) < 2000 and took.bytes_down > 3 * adapters.stat().st_size
    merged = merged_payloads(tmp_path / "kept", asked)
    rows = {row.tobytes() for row in merged.embeddings}
    assert len(rows) == len(merged.labels), "each client's classes are drawn in its own way"
    with pytest.raises(BadInputError, match="without its adapters"):
        merged_payloads(tmp_path / "kept", experiment)


def test_adapters_of_another_generator_are_named_without_a_path(experiment, adapters, tmp_path, capsys):
    other = load_inventory(adapters)
    other.description = other.description.model_copy(update={"model": "0" * 64})
    save_inventory(other, tmp_path / "other.safetensors")
    routed = {"prompt_level": "routed", "route": RouteSettings(steps=1), "inventory": tmp_path / "other.safetensors"}
    asked = experiment.model_copy(update=routed)
    with pytest.raises(IncompleteError):
        collect_payloads(simulated(asked, tmp_path), asked, CLASSES, tmp_path / "kept")
    assert "left out node 2: the server's adapters: learned through another generator" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"other\.safetensors: learned through another generator than"):
        run_experiment(asked, tmp_path / "out", tmp_path / "engines")


def test_an_inventory_that_cannot_be_used_is_said_before_anybody_is_asked(payload_bytes, experiment, tmp_path):
    grid, calls = grid_of(payload_bytes("ann"), payload_bytes("bob"))
    asked = experiment.model_copy(update={"prompt_level": "routed", "inventory": tmp_path / "none.safetensors"})
    with pytest.raises(BadInputError, match=r"none\.safetensors"):
        collect(grid, asked, tmp_path / "kept")
    assert not calls


def test_too_few_sound_payloads_end_the_run(payload_bytes, experiment, tmp_path):
    grid, _ = grid_of(payload_bytes("ann"), b"nonsense")
    with pytest.raises(FglError, match="1 clients sent a sound payload, 2 are needed"):
        collect(grid, experiment, tmp_path)


def test_payloads_are_asked_for_once(payload_bytes, experiment, tmp_path):
    grid, calls = grid_of(payload_bytes("ann"), payload_bytes("bob"))
    first = collect(grid, experiment, tmp_path)
    assert collect(grid, experiment, tmp_path) == first
    assert len(calls) == 2


@pytest.mark.parametrize("form", ["tokens", "shape"])
def test_a_payload_of_another_form_is_left_out_and_stops_nobody(form, payload_bytes, experiment, tmp_path, capsys):
    sound = tmp_path / "ann.safetensors"
    sound.write_bytes(payload_bytes("eve"))
    made = load_payload(sound)
    if form == "tokens":
        made = replace(
            made, embeddings=None, token_ids=np.arange(16 * len(made.labels), dtype=np.int32).reshape(-1, 16)
        )
    else:
        made = replace(made, embeddings=made.embeddings[:, 1:])
    save_payload(made, sound)
    grid, _ = grid_of(payload_bytes("ann"), payload_bytes("bob"), sound.read_bytes())
    paths, _ = collect(grid, experiment, tmp_path / "clients")
    assert len(merge_payloads(map(load_payload, paths)).clients) == 2
    assert "not embeddings of [16, 64]" in " ".join(capsys.readouterr().err.split())


def reply(**numbers):
    return RecordDict({wire.METRICS: MetricRecord(numbers)})


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({wire.SHARE: 0.5}, None),
        ({}, None),
        ({wire.SHARE: 1.1}, "share-right is 1.1"),
        ({wire.SHARE: 1}, "share-right is 1"),
        ({wire.SHARE: [0.5]}, "share-right is"),
        ({wire.SHARE: float("nan")}, "share-right is nan"),
        ({wire.SHARE: 0.5, "num-examples": 9}, "1 keys too many or too few: 'num-examples'"),
    ],
)
def test_numbers_that_cannot_be_are_named(numbers, words):
    if words is None:
        assert wire.read(reply(**numbers), wire.share_of) == numbers.get(wire.SHARE)
        return
    with pytest.raises(wire.UnfitError, match=re.escape(words)):
        wire.read(reply(**numbers), wire.share_of)


def test_a_second_record_is_named():
    content = RecordDict({wire.METRICS: MetricRecord({wire.SHARE: 0.5}), "more": MetricRecord({"x": 1})})
    with pytest.raises(wire.UnfitError, match="'more'"):
        wire.read(content, wire.share_of)


def test_a_global_model_is_no_larger_than_the_weights_that_came_with_it(tmp_path):
    model = build_model("resnet10-tiny", CLASSES)
    text, weights = model.config.to_json_string(use_diff=False), model.state_dict()
    assert model_of(text, weights).config.num_labels == len(CLASSES)
    facts = json.loads(text)
    wide, deep, code = {"hidden_sizes": [1 << 20] * 4}, {"depths": [1 << 20] * 4}, {"auto_map": {"AutoConfig": "x.Y"}}
    for keys in (wide, deep, code, {"depths": [2, 1, 1, 1]}, {"model_type": "gpt2"}):
        with pytest.raises(BadInputError, match="the global model"):
            model_of(json.dumps(facts | keys), weights)
    with pytest.raises(BadInputError, match="the global model"):
        model_of("{", weights)


def test_classes_that_send_the_same_prompt_end_the_run_unless_they_may(experiment, tmp_path, capsys):
    names = ("bag", "Bag", "ankle boot")
    made = {"data": write_images(tmp_path / "twins.npz", 12, classes=names), "test": experiment.test}
    asked = experiment.model_copy(update=made)
    collect_payloads(simulated(asked, tmp_path), asked, names, tmp_path / "out")
    with pytest.raises(BadInputError, match="'bag', 'Bag'") as refused:
        merged_payloads(tmp_path / "out", asked)
    assert "allow_same_prompt" in refused.value.hint
    allowed = asked.model_copy(update={"allow_same_prompt": True})
    merged = merged_payloads(tmp_path / "out", allowed)
    assert merged.class_names == names
    assert "their images are drawn alike" in " ".join(capsys.readouterr().err.split())


def test_one_embedding_for_all_classes_is_left_out_where_clients_learn_them(
    private, random_mini, experiment, tmp_path, capsys
):
    contents = []
    for name in ("ann", "bob", "eve"):
        made = embed(read_dataset(private), name, random_mini)
        own = made.embeddings + np.float16(len(contents))
        own = np.repeat(own[:1], len(own), axis=0) if name == "eve" else own
        contents.append(sent(replace(made, embeddings=own), tmp_path, prompt_level="learned"))
    asked = experiment.model_copy(update={"prompt_level": "learned"})
    _, took = collect(grid_of(*contents)[0], asked, tmp_path / "kept")
    assert [member.name for member in took.members] == ["ann", "bob"]
    said = " ".join(capsys.readouterr().err.split())
    assert "left out node 4" in said and "send the same prompt" in said
    assert merged_payloads(tmp_path / "kept", asked).clients == ("ann", "bob")


def test_signed_again_is_not_changed_and_a_key_off_the_list_is_asked_for_nothing(
    private, random_mini, experiment, tmp_path, capsys
):
    keys = {name: find_or_make_key(tmp_path / f"{name}.pem")[0] for name in ("ann", "bob", "eve")}

    def listed(*names):
        lines = "".join(f'{name} = "{keys[name]}"\n' for name in names)
        (tmp_path / "clients.toml").write_text(f'federation = "f"\n[clients]\n{lines}')
        return experiment.model_copy(update={"allow": tmp_path / "clients.toml"})

    def signed():
        for name in keys:
            made = embed(read_dataset(private), name, random_mini)
            save_payload(made, tmp_path / name, open_signer(tmp_path / f"{name}.pem", "f"))
        return grid_of(*((tmp_path / name).read_bytes() for name in keys))[0]

    collect(signed(), listed(*keys), tmp_path / "kept")
    assert collect_again(signed(), listed(*keys), CLASSES, tmp_path / "kept") is None
    _, took = collect(signed(), listed("ann", "bob"), tmp_path / "kept")
    assert [member.name for member in took.members] == ["ann", "bob"]
    assert "eve: not on the list of keys any more" in " ".join(capsys.readouterr().err.split())
    assert merged_payloads(tmp_path / "kept", listed("ann", "bob")).clients == ("ann", "bob")


def test_payloads_asked_for_again_are_there_as_a_whole_after_a_kill(tmp_path, monkeypatch):
    for name in ("clients", "clients.again"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_text(name)
    monkeypatch.setattr("fglfast.federation.collect.shutil.rmtree", lambda *_, **__: None)  # killed before
    take_place(tmp_path / "clients.again", tmp_path / "clients")
    assert (tmp_path / "clients" / "own").read_text() == "clients.again"
    monkeypatch.undo()
    (tmp_path / "clients.again").mkdir()
    take_place(tmp_path / "clients.again", tmp_path / "clients")
    assert [path.name for path in tmp_path.iterdir()] == ["clients"]


def test_a_claim_that_would_displace_all_others_is_left_out_unless_it_is_trusted(
    private, random_mini, experiment, tmp_path, capsys
):
    contents = []
    for number, name in enumerate(("ann", "bob", "eve")):
        made = embed(read_dataset(private), name, random_mini)
        own = (made.embeddings + np.float16(number)).astype(np.float16)
        counts = np.full(len(made.labels), 10**9 if name == "eve" else 100)
        contents.append(sent(replace(made, embeddings=own, counts=counts), tmp_path, prompt_level="instance"))
    asked, told = experiment.model_copy(update={"prompt_level": "instance"}), []
    paths, took = collect(grid_of(*contents, told=told)[0], asked, tmp_path / "kept")
    assert [member.name for member in took.members] == ["ann", "bob"] and len(paths) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "answered 2; left out node 4: 'eve' claims 1,000,000,000 images" in said and "trusted_counts" in said
    assert told[0][0] == 2 and "trusted_counts" in told[0][1]
    louder = replace(load_payload(tmp_path / "sent-bob"), counts=np.full(3, 2 * 10**11))
    shielded = [contents[0], sent(louder, tmp_path), contents[2]]
    with pytest.raises(IncompleteError):  # a larger claim makes none credible: both are turned out
        collect(grid_of(*shielded)[0], asked, tmp_path / "shielded")
    trusting = asked.model_copy(update={"trusted_counts": ("eve",)})
    assert len(collect(grid_of(*contents)[0], trusting, tmp_path / "trusted")[0]) == 3
    capped = asked.model_copy(update={"max_share_per_client": 0.5})
    assert len(collect(grid_of(*contents)[0], capped, tmp_path / "capped")[0]) == 3
