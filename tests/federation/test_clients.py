import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from PIL import Image
from playing_clients import grid_of_node
from small_federation import CLASSES, write_images

from fglfast.base.config import MOST_SEED
from fglfast.base.errors import BadInputError, UsageError
from fglfast.client.embed import embed
from fglfast.client.privacy import Budget
from fglfast.client.settings import LearnSettings, RouteSettings
from fglfast.federation import client_app, wire
from fglfast.federation.clients import ANSWERS, Client, domains, everything, open_client, simulated, split_over_clients
from fglfast.federation.experiment import Partition
from fglfast.images.attributes import SHADES
from fglfast.images.dataset import read_dataset
from fglfast.payload import load_payload, save_payload
from fglfast.training.prototypes import PROTOTYPES, empty_prototypes
from fglfast.training.results import WEIGHTS
from fglfast.training.settings import AdaptSettings


@pytest.fixture
def file(experiment, tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(experiment.to_toml())
    return str(path)


def context(node, run=None):
    return Context(1, 2, node, RecordDict(), run or {})


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "dirichlet-classes", "classes", "shards", "quantity"])
def test_every_image_goes_to_one_client(private, kind):
    dataset = read_dataset(private)
    parts = split_over_clients(dataset, Partition(kind=kind, clients=4, beta=0.5), seed=3)
    assert len(parts) == 4 and sorted(np.concatenate(parts)) == list(range(len(dataset)))


def test_a_domain_a_client():
    dataset = read_dataset("fashion:test").select(range(200))
    parts = split_over_clients(dataset, Partition(kind="domain", domain="shade"), seed=0)
    assert sorted(np.concatenate(parts)) == list(range(200))
    shades = np.array(domains(dataset, "shade"))
    assert [set(shades[rows]) for rows in parts] == [{shade} for shade in sorted(SHADES)]


def test_a_domain_folder_a_client(experiment, tmp_path):
    for domain, classes in (("photo", ("bag", "t-shirt")), ("sketch", ("bag", "ankle boot"))):
        for name in classes:
            (tmp_path / "data" / domain / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / domain / name / "1.png")
    changes = {"data": str(tmp_path / "data"), "partition": Partition(kind="domain")}
    (tmp_path / "data" / "__MACOSX" / "photo").mkdir(parents=True)  # what a zip of a Mac leaves is no client
    file = tmp_path / "experiment.toml"
    file.write_text(experiment.model_copy(update=changes).to_toml())
    clients = simulated(str(file), 0)
    assert [client.dataset.named(CLASSES).counts().tolist() for client in clients] == [[1, 1, 0], [0, 1, 1]]
    assert [client.domain for client in clients] == ["photo", "sketch"]
    assert everything(str(file)).dataset.named(CLASSES).counts().tolist() == [1, 2, 1]


def test_simulated_clients_are_the_partition(experiment, private, file):
    clients = simulated(file, 0)
    parts = split_over_clients(read_dataset(private), experiment.partition, 0)
    assert [len(client.dataset) for client in clients] == [len(rows) for rows in parts]
    run = {"experiment": file, "seed": 0}
    assert open_client(context({"partition-id": 1}, run)) is clients[1]
    assert len(open_client(context({"partition-id": "all"}, run)).dataset) == len(read_dataset(private))
    assert everything(file).dataset.class_names == CLASSES


def test_simulated_clients_have_the_experiments_captions_and_domain(experiment, private, random_mini, tmp_path):
    told = [{"index": row, "caption": f"n{row}"} for row in range(len(read_dataset(private)))]
    (tmp_path / "names.json").write_text(json.dumps(told))
    named = {"captions": str(tmp_path / "names.json"), "domain": "sketch", "prompt_level": "instance"}
    path = tmp_path / "named.toml"
    path.write_text(experiment.model_copy(update=named).to_toml())
    clients = simulated(str(path), 0)
    assert {client.domain for client in clients} == {"sketch"}
    client = clients[0]
    sent = embed(client.dataset, "ann", random_mini, "instance", captions=client.captions, domain=client.domain)
    assert len(sent.labels) > 10 and sent.header.domain == "sketch"


def test_a_standing_client_reads_what_its_own_configuration_names(private, random_mini, tmp_path):
    node = {"data": private, "name": "ann", "model": str(random_mini), "out": str(tmp_path / "model")}
    client = open_client(context(node, {"experiment": "another", "seed": 7}))
    assert (client.name, client.model, client.out) == ("ann", random_mini, tmp_path / "model")
    assert len(client.dataset) == len(read_dataset(private))


def asks(message_type, records, node, run=None):
    """What a client of a node's configuration answers, as it is."""
    return grid_of_node(node, run).ask(message_type, records, lambda content: content, {2: "ann"})


def answers(times, path, node, run=None):
    """The payloads that such a client sends, each in a file."""
    question = wire.config(**{"prompt-level": "class", "class-names": list(CLASSES)})
    for _ in range(times):
        [said] = asks(wire.PAYLOAD, question, node, run).good.values()
        path.write_bytes(wire.payload_of(said))
        yield path


def final(model):
    """The records of a final model with prototypes of nothing."""
    prototypes = wire.weights_record(empty_prototypes(model).tensors())
    return {wire.ARRAYS: wire.weights_record(model.state_dict()), wire.PROTOTYPES: prototypes}


@pytest.mark.parametrize(
    ("message_type", "asked", "word"),
    [
        (wire.PAYLOAD, {"prompt-level": "instance"}, "payload:instance"),
        (wire.PAYLOAD, {"prompt-level": "learned"}, "payload:learned"),
        (wire.PAYLOAD, {"prompt-level": "routed"}, "payload:routed"),
        (wire.TRAIN, {}, "train"),
        (wire.EVALUATE, {}, "evaluate"),
        (wire.ADAPT, {}, "evaluate"),
    ],
)
def test_a_client_answers_what_its_own_configuration_names_and_refuses_the_rest_by_name(
    message_type, asked, word, private, random_mini, experiment, model, adapters
):
    routing = {"route": RouteSettings(steps=1).model_dump_json(), "inventory": adapters.read_bytes()}
    told = {**final(model), **told_all(model, experiment, **routing, **asked)}
    node = {"data": private, "model": str(random_mini)}
    [why] = asks(message_type, told, node).refused.values()
    assert f"does not answer {word}" in why
    assert not asks(message_type, told, {**node, "answers": word}).refused


def test_without_a_word_a_client_gives_its_classes_and_takes_the_model(private, random_mini):
    assert open_client(context({"data": private, "model": str(random_mini)})).answers == {"payload:class", "deliver"}
    with pytest.raises(UsageError, match="'everything'"):
        open_client(context({"data": private, "model": str(random_mini), "answers": "everything"}))


def test_no_reply_tells_how_many_images_a_client_with_noise_has(private, random_mini, model, tmp_path):
    noisy = embed(read_dataset(private), "ann", random_mini, budget=Budget(epsilon=3.0))
    save_payload(noisy, tmp_path / "ann.safetensors")
    node = {"data": private, "payload": str(tmp_path / "ann.safetensors"), "answers": "evaluate"}
    told = {"model": model.config.to_json_string(use_diff=False), "image-size": 16, "validation-share": 0.3}
    told["adapt"] = AdaptSettings(shots=3).model_dump_json()
    said = {wire.EVALUATE: {wire.SHARE}, wire.DELIVER: {wire.KEPT}, wire.ADAPT: {wire.SHARE, wire.ADAPTED}}
    for kind, names in said.items():
        asked = {**final(model), **wire.config(**told, **{"class-names": list(CLASSES)})}
        [content] = asks(kind, asked, node).good.values()
        [record] = content.metric_records.values()
        assert set(record) == names
        assert all(value == round(value, 2) for value in record.values())


def test_weights_of_a_round_do_not_count_the_steps_that_made_them(ask):
    sent = ask.model.state_dict()
    said = wire.weights(ask(wire.TRAIN, **{"server-round": 1}).array_records[wire.ARRAYS])
    counters = [name for name in sent if name.endswith("num_batches_tracked")]
    assert counters and all(torch.equal(said[name], sent[name]) for name in counters)
    assert any(not torch.equal(said[name], sent[name]) for name in sent)


@pytest.mark.parametrize("kind", [wire.TRAIN, wire.EVALUATE, wire.MOMENTS, wire.ADAPT, wire.PAYLOAD])
def test_why_a_client_cannot_answer_names_none_of_its_classes_and_files(kind, ask, private, capsys):
    told = {"class-names": ["nothing"], "prompt-level": "class"}
    why = ask(kind, **told)
    assert "its own log says why" in why and private not in why and not any(name in why for name in CLASSES)
    assert private in capsys.readouterr().err


def test_no_words_of_the_system_reach_the_server(ask, monkeypatch, capsys):
    def fail(*_):
        raise PermissionError(13, "Permission denied", "/data/melanoma/ann.png")

    monkeypatch.setattr(client_app, "train_locally", fail)
    assert "its own log says why" in (why := ask(wire.TRAIN)) and "melanoma" not in why
    assert "melanoma" in capsys.readouterr().err


def test_what_the_server_sent_may_be_said_to_it(ask):
    assert "adapters" in ask(wire.PAYLOAD, **{"prompt-level": "routed", "route": "{}", "inventory": b"damaged"})


def test_under_a_budget_no_image_decides_which_others_are_learned_from(private, tmp_path):
    images = read_dataset(private)
    client = Client("ann", 0, images, tmp_path, budget=Budget(epsilon=1.0))
    assert client.training_images(CLASSES, 0.3).names == images.named(CLASSES).names
    assert len(replace(client, budget=None).training_images(CLASSES, 0.3)) < len(images)


def test_a_ready_payload_is_sent_as_it_is_however_often(private, tmp_path):
    ready = tmp_path / "ann.safetensors"
    ready.write_bytes(b"made before")
    node = {"data": private, "payload": str(ready)}
    assert [path.read_bytes() for path in answers(2, tmp_path / "sent", node)] == [b"made before"] * 2


def test_a_ready_payload_is_signed_as_it_is_made_or_not_at_all(private, tmp_path):
    told = {"data": private, "payload": str(tmp_path / "p"), "sign": str(tmp_path / "key"), "federation": "here"}
    with pytest.raises(UsageError, match="sent as it is"):
        open_client(context(told))


def test_an_experiments_clients_add_the_noise_it_asks_for(experiment, tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text(experiment.model_copy(update={"privacy": Budget(epsilon=3.0, uploads=2)}).to_toml())
    run = {"experiment": str(file), "seed": 0}
    [path] = answers(1, tmp_path / "sent.safetensors", {"partition-id": 1}, run)
    privacy = load_payload(path).header.privacy
    assert (privacy.epsilon, privacy.uploads) == (3.0, 2) and privacy.noise > 0


def test_labels_follow_the_federations_order_of_classes(tmp_path):
    client = _holder(tmp_path, ("bag", "ankle boot"))
    images = client.images(CLASSES, 16, 0.1)
    assert set(images.labels.tolist()) == {CLASSES.index("bag"), CLASSES.index("ankle boot")}


def test_a_class_that_the_federation_does_not_know_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="images of unknown classes: zebra"):
        _holder(tmp_path, ("bag", "zebra")).images(CLASSES, 16, 0.1)


def _holder(tmp_path, classes):
    source = write_images(tmp_path / "own.npz", 6, classes=classes)
    return Client("own", 0, read_dataset(source), tmp_path)


def told_all(network, experiment, **changes):
    """Everything that a server asks about a model, in its exact form but for some changes; None is left out."""
    told = {
        "model": network.config.to_json_string(use_diff=False),
        "class-names": list(CLASSES),
        "image-size": 16,
        "validation-share": 0.1,
        "local": experiment.local.model_dump_json(),
        "adapt": AdaptSettings(shots=2).model_dump_json(),
        "prompt-level": "learned",
        "learn": LearnSettings(steps=1, vectors=1).model_dump_json(),
        "seed": 0,
        "server-round": 1,
        "proximal-mu": 0.0,
        **changes,
    }
    return wire.config(**{key: value for key, value in told.items() if value is not None})


@pytest.fixture
def ask(private, random_mini, model, experiment, tmp_path):
    """Ask a client that answers everything; gives what it says, or why it does not."""
    node = {"data": private, "model": str(random_mini), "out": str(tmp_path / "model"), "answers": ",".join(ANSWERS)}

    def run(message_type, records=None, **changes):
        asked = {**(final(model) if records is None else records), **told_all(model, experiment, **changes)}
        said = asks(message_type, asked, node)
        [answer] = {**said.refused, **said.good}.values()
        return answer

    run.model, run.out = model, tmp_path / "model"
    return run


MALFORMED = [
    (wire.TRAIN, {"rounds": 10**9}, "rounds: Input should be less than or equal to 10000"),
    (wire.TRAIN, {"rounds": 0}, "rounds"),
    (wire.TRAIN, {"server-round": 10**9}, "server-round"),
    (wire.TRAIN, {"server-round": "1"}, "server-round"),
    (wire.TRAIN, {"server-round": None}, "server-round: Field required"),
    (wire.TRAIN, {"seed": -1}, "seed"),
    (wire.TRAIN, {"seed": True}, "seed"),
    (wire.TRAIN, {"proximal-mu": float("inf")}, "proximal-mu"),
    (wire.TRAIN, {"local": '{"epochs": 1000000000}'}, "epochs: Input should be less than or equal to 10000"),
    (wire.TRAIN, {"local": '{"epochs": "1"}'}, "epochs"),
    (wire.TRAIN, {"local": '{"learning_rate": Infinity}'}, "Infinity"),
    (wire.TRAIN, {"local": "["}, "local"),
    (wire.TRAIN, {"local": 5}, "local"),
    (wire.TRAIN, {"local": None}, "local: Field required"),
    (wire.EVALUATE, {"validation-share": 5.0}, "validation-share"),
    (wire.EVALUATE, {"validation-share": 1.0}, "validation-share"),
    (wire.EVALUATE, {"validation-share": float("nan")}, "validation-share"),
    (wire.EVALUATE, {"validation-share": "0.1"}, "validation-share"),
    (wire.EVALUATE, {"image-size": 0}, "image-size"),
    (wire.EVALUATE, {"image-size": 1 << 40}, "image-size"),
    (wire.EVALUATE, {"class-names": "bag"}, "class-names"),
    (wire.EVALUATE, {"class-names": [1, 2, 3]}, "class-names"),
    (wire.EVALUATE, {"class-names": ["bag", "bag"]}, "class-names"),
    (wire.EVALUATE, {"model": 3}, "model"),
    (wire.MOMENTS, {"model": None}, "model: Field required"),
    (wire.DELIVER, {"image-size": None}, "image-size: Field required"),
    (wire.ADAPT, {"adapt": '{"shots": 0}'}, "shots"),
    (wire.ADAPT, {"adapt": None}, "adapt: Field required"),
    (wire.PAYLOAD, {"prompt-level": "sorcery"}, "prompt-level"),
    (wire.PAYLOAD, {"prompt-level": None}, "prompt-level: Field required"),
    (wire.PAYLOAD, {"prompt-level": ["class"]}, "prompt-level"),
    (wire.PAYLOAD, {"learn": '{"steps": 1000000000}'}, "steps"),
    (wire.PAYLOAD, {"prompt-level": "routed", "route": '{"steps": 1000000000}', "inventory": b"x"}, "steps"),
    (wire.PAYLOAD, {"prompt-level": "routed", "route": "{}", "inventory": "x"}, "inventory"),
]


@pytest.mark.parametrize(("message_type", "changes", "words"), MALFORMED)
def test_a_malformed_question_is_refused_in_one_line(message_type, changes, words, ask):
    why = ask(message_type, **changes)
    assert why.startswith("the server's question cannot be read: ") and words in why and "\n" not in why


@pytest.mark.parametrize("message_type", [wire.TRAIN, wire.EVALUATE, wire.MOMENTS, wire.DELIVER, wire.ADAPT])
def test_a_question_without_arrays_is_refused_in_one_line(message_type, ask):
    assert "the server's question cannot be read: KeyError" in ask(message_type, records={})


def test_a_message_without_a_question_is_refused_in_one_line_and_one_without_a_reason_heard(
    private, random_mini, capsys
):
    node = {"data": private, "model": str(random_mini)}
    [why] = asks(wire.PAYLOAD, {}, node).refused.values()
    assert "the server's question cannot be read: KeyError" in why
    assert not asks(wire.TURNED_AWAY, {}, node).refused and "does not take this client" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [wire.TRAIN, wire.EVALUATE, wire.MOMENTS, wire.ADAPT, wire.DELIVER, wire.PAYLOAD])
def test_what_a_server_asks_is_answered(kind, ask):
    assert isinstance(ask(kind), RecordDict)


def test_any_seed_trains(ask):
    assert isinstance(ask(wire.TRAIN, seed=MOST_SEED), RecordDict)


def test_no_prototypes_are_left_beside_another_model(ask):
    plain = {wire.ARRAYS: wire.weights_record(ask.model.state_dict())}
    ask(wire.DELIVER)
    assert (ask.out / PROTOTYPES).exists()
    ask(wire.DELIVER, records=plain)
    assert (ask.out / WEIGHTS).exists() and not (ask.out / PROTOTYPES).exists()


def test_a_delivery_killed_at_any_of_its_steps_leaves_no_prototypes_of_another_model(ask, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    for name in ("save_model", "save_prototypes"):
        ask(wire.DELIVER)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(client_app, name, kill)
            ask(wire.DELIVER)
        assert (ask.out / WEIGHTS).exists() and not (ask.out / PROTOTYPES).exists()


def test_a_delivery_that_is_refused_leaves_what_was_there(ask):
    ask(wire.DELIVER)
    before = {path.name: path.read_bytes() for path in ask.out.iterdir()}
    broken = {**final(ask.model), wire.PROTOTYPES: wire.weights_record({"means": torch.zeros(1)})}
    assert "prototypes" in ask(wire.DELIVER, records=broken)
    assert {path.name: path.read_bytes() for path in ask.out.iterdir()} == before
