"""A data set whose clients join, leave and change: images stay, and the set is that of a fresh run."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from idle_engine import decode, spoilt
from living import NAMES, content, images, killed, maker
from test_synthesis_faults import room_for
from typer.testing import CliRunner

from fglfast.base.errors import UsageError
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.stopping import RECORD
from fglfast.sampler.schedule import Sampling
from fglfast.shards.imagefolder import export_imagefolder
from fglfast.shards.keep import LEFT_OUT
from fglfast.synthesis import foresight, swap
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.foresight import estimate
from fglfast.synthesis.provenance import shares
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.swap import STOPPING
from fglfast.synthesis.synthesize import synthesize
from fglfast.synthesis.verify import verify
from fglfast.verbs import datasets, for_servers
from fglfast.verbs.app import app

SMALL = SynthesisSettings(images_per_class=5, shard_size=4, sampling=Sampling(steps=1, guidance_scale=1.0))


@pytest.fixture(scope="module")
def make(random_mini):
    return maker(random_mini)


ROWS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 3), st.integers(1, 9)),
    min_size=1,
    max_size=4,
    unique_by=lambda row: row[:2],
)
CLIENTS = st.dictionaries(st.sampled_from(("ann", "bob", "cid", "dan")), ROWS, min_size=1, max_size=4)
FEW = settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@FEW
@given(CLIENTS, st.randoms(), st.permutations(NAMES), st.permutations(("w", "x", "y", "z")))
def test_an_image_is_its_identitys_whatever_the_order_and_the_names(make, idle, sent, order, classes, others):
    """Clients under other names, classes in another order, rows in another order: the same images by identity."""
    renamed = dict(zip(sent, others, strict=False))
    shuffled = [(renamed[client], order.sample(rows, len(rows))) for client, rows in sent.items()]
    order.shuffle(shuffled)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        merged = merge_payloads([make(client, rows) for client, rows in sent.items()])
        synthesize(idle(spoilt), merged, SMALL, Path(one))
        merged = merge_payloads([make(client, rows, tuple(classes)) for client, rows in shuffled])
        synthesize(idle(spoilt, batch=3), merged, SMALL.model_copy(update={"shard_size": 3}), Path(other))
        assert images(Path(one)) == images(Path(other))


@FEW
@given(st.lists(st.tuples(CLIENTS, st.integers(1, 6), st.sampled_from([0.5, 1.0])), min_size=2, max_size=4))
def test_any_path_of_updates_ends_at_what_a_fresh_run_makes(make, idle, path):
    with tempfile.TemporaryDirectory() as folder:
        out, fresh = Path(folder, "out"), Path(folder, "fresh")
        for sent, count, share in path:
            merged = merge_payloads([make(client, rows) for client, rows in sent.items()])
            asked = SMALL.model_copy(update={"images_per_class": count, "max_share_per_client": share})
            before = images(out) if out.exists() else {}
            made = synthesize(idle(spoilt), merged, asked, out, update=True)
            assert made.missing == 0 and made.images == len(images(out).keys() - before.keys())
        synthesize(idle(spoilt), merged, asked, fresh)
        assert content(out) == content(fresh)
        assert not any(shard.problem for shard in verify(out, merged))


def test_sixty_clients_and_a_thousand_classes_draw_again_what_differs_and_no_more(make, idle, tmp_path):
    names = tuple(f"class {number}" for number in range(1000))
    asked = SMALL.model_copy(update={"images_per_class": 4, "shard_size": 512})
    draw = np.random.default_rng(0)

    def client(number):
        held = sorted(draw.choice(1000, 50, replace=False).tolist())
        return [(names[label], 1000 * number + label, int(draw.integers(1, 50))) for label in held]

    everyone = {f"client {number:02d}": client(number) for number in range(60)}
    missing = [name for name in names if not any(name == row[0] for rows in everyone.values() for row in rows)]
    everyone["client 59"] += [(name, 5, 3) for name in missing]  # every class is somebody's
    steps = [everyone, dict(list(everyone.items())[1:])]
    steps += [steps[1] | {"client 99": client(99)}]
    steps += [steps[2] | {"client 07": [(name, value, count + 3) for name, value, count in everyone["client 07"]]}]
    before, drawn = {}, []
    for sent in steps:
        merged = merge_payloads([make(name, rows, names) for name, rows in sent.items()])
        made = synthesize(idle(batch=256), merged, asked, tmp_path / "out", update=True)
        now = images(tmp_path / "out")
        assert made.images == len(now.keys() - before.keys()) and made.images + made.found == len(now)
        assert all(now[key] == before[key] for key in now.keys() & before.keys())
        before, drawn = now, [*drawn, made.images]
    assert drawn[0] == 4000 and all(0 < count < 300 for count in drawn[1:])
    synthesize(idle(batch=256), merged, asked, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


ANN, BOB = [("bag", 1, 3), ("shoe", 2, 1)], [("bag", 1, 1), ("bag", 3, 4), ("hat", 4, 2)]
CID = [("hat", 9, 5), ("shoe", 8, 1)]


@pytest.fixture
def call(make, random_mini, idle, tmp_path, monkeypatch):
    """Run a verb that draws, over the payloads of some clients, with an engine that counts what it draws."""
    drawn = []

    def decoder(latents):
        drawn.append(len(latents))
        return decode(latents)

    for module in (for_servers, datasets):
        monkeypatch.setattr(module, "open_engine", lambda *_, **__: idle(decoder))
    monkeypatch.setattr(
        foresight, "foreseen", lambda _, merged, asked, out, __, *more: estimate(idle(), merged, asked, out, *more[:2])
    )

    def run(sent, verb="synthesize", *arguments, code=0):
        folder = tmp_path / "clients"
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for number, (client, rows) in enumerate(sent.items()):
            save_payload(make(client, rows), folder / f"{number}.safetensors")
        line = [verb, *arguments, "--embeddings", f"{folder}/*.safetensors", "--out", str(tmp_path / "out"), "--json"]
        if verb == "synthesize":
            line += ["--images-per-class", "5", "--shard-size", "4", "--steps", "1", "--guidance", "1"]
        drawn.clear()
        done = CliRunner().invoke(app, line)
        assert done.exit_code == code, done.output
        return (json.loads(done.stdout) if done.stdout else {}), done.stderr

    return run


def test_other_payloads_are_refused_with_what_differs_until_update_is_given(call, tmp_path):
    call({"ann": ANN, "bob": BOB})
    before = content(tmp_path / "out")
    _, said = call({"ann": ANN, "cid": CID}, code=2)
    assert "cid joined" in said and "bob left" in said and "--update" in said
    planned, _ = call({"ann": ANN, "cid": CID}, "synthesize", "--dry-run", "--update")
    assert content(tmp_path / "out") == before
    made, _ = call({"ann": ANN, "cid": CID}, "synthesize", "--update")
    change = planned["change"]
    assert (change["joined"], change["left"], change["changed"]) == (["cid"], ["bob"], [])
    assert (change["new"], change["kept"]) == (made["images"], made["found"]) == (planned["images_left"], made["found"])
    assert change["kept"] + change["dropped"] == 15 and planned["passes"] == -(-made["images"] // 8)
    after, _ = call({"ann": ANN, "cid": CID})
    assert after["images"] == 0 and after["found"] == 15


@pytest.mark.parametrize("changes", [{"seed": 1}, {"sampling": Sampling(steps=2)}, {"image_format": "webp"}])
def test_what_an_image_is_cannot_be_updated(changes, make, idle, tmp_path):
    merged = merge_payloads([make("ann", ANN)])
    synthesize(idle(), merged, SMALL, tmp_path)
    with pytest.raises(UsageError, match="another data set"):
        synthesize(idle(), merged, SMALL.model_copy(update=changes), tmp_path, update=True)
    assert not (tmp_path / ".update").exists()


def test_more_images_a_class_leave_whole_shards_as_they_are(make, idle, tmp_path):
    merged = merge_payloads([make("ann", [("bag", 1, 1)])])
    synthesize(idle(), merged, SMALL, tmp_path / "out")
    first = (tmp_path / "out" / "train-000000.tar").stat().st_ino
    made = synthesize(idle(), merged, SMALL.model_copy(update={"images_per_class": 9}), tmp_path / "out", update=True)
    assert made.images == 4 and (tmp_path / "out" / "train-000000.tar").stat().st_ino == first


def test_a_damaged_shard_is_not_taken_over(make, idle, tmp_path):
    merged, more = merge_payloads([make("ann", ANN)]), merge_payloads([make("ann", ANN), make("bob", BOB)])
    synthesize(idle(), merged, SMALL, tmp_path / "out")
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"damaged")
    synthesize(idle(), more, SMALL, tmp_path / "out", update=True)
    synthesize(idle(), more, SMALL, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_domain_is_part_of_a_row(make, idle, tmp_path):
    """It chooses the negative prompt: the same words from two domains are two rows."""
    merged = merge_payloads([make("ann", ANN), make("bob", ANN, domain="sketch")])
    synthesize(idle(), merged, SMALL, tmp_path)
    rows = Drawn.of(tmp_path).rows
    assert [len(row.claims) for row in rows] == [1] * 4 and len({row.row for row in rows}) == 4


def test_who_caused_what(call, tmp_path):
    call({"ann": ANN, "bob": BOB})
    found = shares(tmp_path / "out")
    bag = {client: found[client]["bag"] for client in found}
    assert (bag["ann"].claimed, bag["ann"].alone) == (3, 0) and bag["bob"].images == 5 and bag["bob"].alone > 0
    assert found["ann"]["shoe"].alone == 5 and found["bob"].keys() == {"bag", "hat"}
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out"), "--json"])
    said = json.loads(shown.stdout)
    assert said["images_by_class"] == {"bag": 5, "shoe": 5, "hat": 5}
    shoe = {"claimed": 1, "images": 5, "alone": 5, "part": 5.0, "rows": 1, "empty": 0}
    assert said["clients"]["ann"]["by_class"]["shoe"] == shoe
    table = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")])
    assert table.exit_code == 0 and "ann" in table.stdout


def test_a_forgotten_client_is_in_no_file(call, make, tmp_path):
    out, name = tmp_path / "out", "zoë-hospital"
    call({"ann": ANN, "bob": BOB, name: CID})
    export_imagefolder(out, NAMES, Drawn.of(out).shards)
    (out / ".train-000009.tar.tmp").write_bytes(name.encode())  # of a run that was killed
    (out / LEFT_OUT).write_text("{}")
    there, pictures = Drawn.of(out), images(out)
    gone = {row.row for row in there.rows if row.claims.keys() == {name}}
    kept = {key: data for key, data in pictures.items() if key[1] not in gone}
    (tmp_path / "out.html").write_text("<!doctype html>")
    receipt, said = call({"ann": ANN, "bob": BOB, name: CID}, "forget", name)
    assert "out.html shows the images as they were" in said and f"fglfast report {out}" in said
    assert receipt["rows_removed"] == len(gone) == 2 and receipt["images_removed"] == len(pictures) - len(kept)
    assert receipt["images_kept"] == len(kept) and "fglfast train" in said
    assert not (out / LEFT_OUT).exists() and "imagefolder, left-out.json told of the older images" in said
    assert len(removed := [pictures[key] for key in pictures.keys() - kept.keys()]) > 0
    secrets = {name, *gone, there.payloads[there.clients.index(name)]}
    files = content(out)
    for file, data in files.items():
        assert not any(secret.encode() in data or secret in file for secret in secrets), file
        assert json.dumps(name).strip('"').encode() not in data and not any(image in data for image in removed), file
    assert {key: data for key, data in images(out).items() if key in kept} == kept
    assert [file for file in files if file.startswith("forgotten-")] and not (out / "imagefolder").exists()
    fresh = call({"ann": ANN, "bob": BOB})[0]
    assert fresh["images"] == 0 and fresh["found"] == 15
    _, said = call({"ann": ANN, "bob": BOB}, "forget", name, code=4)
    assert "ann, bob" in said


def test_a_stop_rules_record_goes_with_the_images_that_it_told_of(call, tmp_path):
    assert STOPPING == RECORD
    record = tmp_path / "out" / STOPPING
    call({"ann": ANN, "bob": BOB, "cid": CID})
    record.write_text('{"images_per_class": 5}')
    _, said = call({"ann": ANN, "bob": BOB, "cid": CID}, "forget", "cid")
    assert not record.exists() and "stopping.json told of the older images" in said
    record.write_text("{")
    _, said = call({"ann": ANN}, "synthesize", "--update")
    assert not record.exists() and "stopping.json told of the older images" in said


@pytest.mark.parametrize(("decided", "stays"), [(9, True), (7, False)])
def test_a_stop_rules_record_stays_where_its_own_decision_takes_the_place(decided, stays, make, idle, tmp_path):
    """Killed on the way, too."""
    merged, out, more = merge_payloads([make("ann", ANN)]), tmp_path / "out", {"images_per_class": 9}
    synthesize(idle(), merged, SMALL, out)
    (out / STOPPING).write_text(json.dumps({"images_per_class": decided}))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(swap, "_remove_others", killed)
        synthesize(idle(), merged, SMALL.model_copy(update=more), out, update=True)
    assert not (out / "dataset.json").exists()
    synthesize(idle(), merged, SMALL.model_copy(update=more), out, update=True)
    assert Drawn.of(out).images_per_class == 9 and (out / STOPPING).exists() == stays


@pytest.fixture
def stopped(call, tmp_path):
    """A data set of ann and bob, and what an update that ran into a full disk left of cid."""
    call({"ann": ANN, "bob": BOB})
    with room_for(20_000):
        call({"ann": ANN, "bob": BOB, "cid": CID}, "synthesize", "--update", code=1)
    assert "cid" in Drawn.of(tmp_path / "out" / ".update").clients
    return tmp_path / "out"


def test_an_update_that_was_stopped_goes_when_nobody_asks_for_it(call, stopped):
    _, said = call({"ann": ANN, "bob": BOB}, "synthesize", "--update")
    assert not (stopped / ".update").exists() and ".update: removed" in said


def test_an_update_that_was_stopped_goes_on_when_it_is_asked_for(call, stopped):
    call({"ann": ANN, "bob": BOB, "cid": CID}, "synthesize", "--update")
    assert "cid" in Drawn.of(stopped).clients and not (stopped / ".update").exists()


@pytest.mark.parametrize("who", ["cid", "bob"])
def test_who_is_forgotten_is_in_no_update_that_was_stopped(who, call, stopped):
    receipt, _ = call({"ann": ANN, "bob": BOB}, "forget", who)
    assert not (stopped / ".update").exists() and (receipt["rows_removed"] == 0) == (who == "cid")
    assert len(list(stopped.glob("forgotten-*.json"))) == 1
    assert "no client 'cid'" in call({"ann": ANN}, "forget", "cid", code=4)[1]


def test_an_update_that_does_not_say_who_is_in_it_goes_when_somebody_is_forgotten(call, stopped):
    (stopped / ".update" / "dataset.json").unlink()
    assert "no client 'dan'" in call({"ann": ANN, "bob": BOB}, "forget", "dan", code=4)[1]
    assert not (stopped / ".update").exists()


def test_what_cannot_be_forgotten_is_refused(call, tmp_path):
    call({"ann": ANN, "bob": BOB})
    before = content(tmp_path / "out")
    assert "other" in call({"ann": CID}, "forget", "bob", code=4)[1]
    assert "cid" in call({"ann": ANN, "bob": BOB, "cid": CID}, "forget", "bob", code=4)[1]
    call({"ann": ANN}, "forget", "bob")
    assert "delete the folder" in call({"ann": ANN}, "forget", "ann", code=4)[1]
    assert before.keys() != content(tmp_path / "out").keys()


def test_nothing_is_compiled_where_nothing_has_to_be_drawn(call, tmp_path, monkeypatch):
    """Cid alone has hats, and ann's shoes: without him the classes are there as they are."""
    call({"ann": ANN, "cid": [("hat", 9, 5)]})
    monkeypatch.setattr(datasets, "open_engine", lambda *_, **__: pytest.fail("an engine was opened"))
    receipt, _ = call({"ann": ANN}, "forget", "cid")
    assert receipt["images_drawn"] == 0 and Drawn.of(tmp_path / "out").images == 10


@pytest.mark.parametrize("shard_size", [1, 3, 16])
def test_passes_are_full_whatever_the_shard_size_and_bytes_are_those_of_any_batch(shard_size, make, idle, tmp_path):
    batches = []

    def counting(latents):
        batches.append(len(latents))
        return decode(latents)

    merged = merge_payloads([make("ann", ANN), make("bob", BOB)])
    asked = SMALL.model_copy(update={"images_per_class": 8, "shard_size": shard_size})
    synthesize(idle(counting), merged, asked, tmp_path / "one")
    assert batches == [8, 8, 8]
    synthesize(idle(batch=5), merged, asked, tmp_path / "other")
    assert content(tmp_path / "one") == content(tmp_path / "other")
    planned = estimate(idle(), merged, asked, tmp_path / "none", world_size=2)
    assert planned["passes"] == 2 and planned["bytes_free"] > planned["bytes_at_most"] > 0
