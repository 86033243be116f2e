"""A client's account: what it claims, what is drawn for it, how its rows look beside the others', and what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
from living import content, maker
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.client.embed import class_list, embed
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.pipeline.one_shot import run_one_shot
from fglfast.sampler.schedule import Sampling
from fglfast.synthesis.accounts import Account, OddRow, disagreeing, displaced, reckon, remarks, shares_of
from fglfast.synthesis.beside_others import accounts_of
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.plan import Row, make_plan
from fglfast.synthesis.provenance import accounts_in
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.verbs.app import app

SMALL = SynthesisSettings(images_per_class=4, shard_size=8, sampling=Sampling(steps=1, guidance_scale=1.0))
CLASSES = ("t-shirt", "bag", "ankle boot")


def client(name, agreed, compared=50, **figures):
    return Account(
        client=name, claimed=9, images=9, rows=compared, empty=0, agreed=agreed, compared=compared, **figures
    )


def accounts(payloads, model=None):
    merged = merge_payloads(payloads)
    return accounts_of(make_plan(merged, 12, 0, 8, {}).rows, merged, model, {})


@pytest.fixture(scope="module")
def people(random_mini):
    """Clients whose rows are a class's own prompt with noise of their own: (name, seed) -> Payload."""
    known = embed(class_list(CLASSES), "known", random_mini)

    def make(name, seed, shift=0, each=4):
        draw, labels = np.random.default_rng(seed), np.repeat(np.arange(len(CLASSES)), each)
        rows = known.embeddings[labels].astype(np.float32)
        noisy = (rows + 0.05 * draw.normal(size=rows.shape)).astype(np.float16)
        header = known.header.model_copy(update={"client": name, "prompt_level": "instance"})
        return replace(
            known,
            header=header,
            embeddings=noisy,
            labels=(labels + shift) % len(CLASSES),
            counts=np.ones(len(labels), np.int64),
        )

    return make


def test_claims_images_and_rows_that_draw_nothing_follow_from_the_rows():
    rows = (
        Row(0, "ab" * 32, 6, {"ann": 2, "bob": 1}),
        Row(0, "cd" * 32, 0, {"bob": 7}),
        Row(1, "ab" * 32, 6, {"bob": 1}),
    )
    ann, bob, cid = reckon(rows, ("ann", "bob", "cid"))
    assert ann.reckoned == ("ann", 2, 6, 1, 0) and bob.reckoned == ("bob", 9, 12, 3, 1) and cid.rows == 0
    shares = shares_of(rows, ("ann", "bob", "cid"))
    assert shares["ann"][0].part == 4 and shares["bob"][0].part == 2 and shares["bob"][1].alone == 6
    assert not displaced((ann, bob, cid))


def test_who_says_otherwise_than_all_others_is_found_and_what_its_rows_are(people, random_mini):
    honest = accounts([people("ann", 0), people("bob", 1), people("cid", 2)], random_mini)
    assert [account.agreement for account in honest] == [1, 1, 1] and not remarks(honest, CLASSES)
    assert not any(account.odd for account in honest)
    found = accounts([people("ann", 0), people("bob", 1), people("cid", 2), people("eve", 3, shift=1)], random_mini)
    assert [account.client for account in disagreeing(found)] == ["eve"]
    for odd in found[-1].odd:
        assert odd.taken_for == odd.nearest == (odd.label - 1) % len(CLASSES)
    (line,) = remarks(found, CLASSES)
    assert "'eve'" in line and "0 of 12" in line and "one for 'bag' is nearest to that of 't-shirt'" in line


def test_token_ids_are_compared_too_and_have_no_norm(random_mini):
    sent = [embed(class_list(CLASSES), name, random_mini, send="tokens") for name in ("ann", "bob", "cid", "eve")]
    sent[3] = replace(sent[3], labels=(sent[3].labels + 1) % 3)
    found = accounts(sent, random_mini)
    assert [account.agreed for account in found] == [3, 3, 3, 0] and found[0].largest_norm is None
    assert [odd.nearest for odd in found[3].odd] == [(odd.label - 1) % 3 for odd in found[3].odd] != []


def test_a_row_of_another_size_stands_out_whatever_class_it_names(people, random_mini):
    loud = people("eve", 3)
    loud.embeddings[5] *= 20
    found = accounts([people("ann", 0), people("bob", 1), loud], random_mini)
    assert [account.client for account in found if account.odd] == ["eve"]
    (odd,) = found[-1].odd
    assert odd.label == odd.nearest == 1 and 19 < odd.norm < 21 and odd.taken_for is None
    assert found[-1].largest_norm == odd.norm and 0.9 < found[-1].middle_norm < 1.1
    assert "'eve': a row of 20 times the usual norm" in remarks(found, CLASSES)[0]


def test_many_rows_of_a_liar_weigh_no_more_than_a_few_honest_ones(people):
    found = accounts([people("ann", 0), people("bob", 1), people("cid", 2), people("eve", 3, shift=1, each=400)])
    assert [account.agreement for account in found] == [1, 1, 1, 0]


def test_a_liar_cannot_put_honest_rows_where_the_server_looks(people):
    honest, lying = people("eve", 3, each=67), people("eve", 4, shift=1, each=67)
    rows, looked_at = len(honest.labels), np.linspace(0, len(honest.labels) - 1, 100).astype(int)
    is_honest = np.isin(np.arange(rows), looked_at)
    eve = replace(
        honest,
        embeddings=np.where(is_honest[:, None, None], honest.embeddings, lying.embeddings),
        labels=np.where(is_honest, honest.labels, lying.labels),
        counts=np.where(is_honest, 1, 4),
    )
    *_, found = accounts([people("ann", 0), people("bob", 1), people("cid", 2), eve])
    assert found.compared == 100 and found.agreed < 50, "and rows behind which more images stand are looked at first"


def test_classes_that_nobody_else_holds_are_not_compared(people):
    sent = [people("ann", 0), people("bob", 1)]
    only = sent[0].labels == 0
    sent[0] = replace(sent[0], **{name: getattr(sent[0], name)[only] for name in ("embeddings", "labels", "counts")})
    ann, bob = accounts(sent)
    assert (ann.agreed, ann.compared) == (4, 4) and bob.compared == 0 and bob.agreement is None
    (alone,) = accounts([people("ann", 0)])
    assert alone.compared == 0 and alone.largest_norm is not None


def test_few_clients_or_few_rows_are_no_reason_for_a_line():
    assert not disagreeing([client("ann", 50), client("bob", 0)])
    others = [client("ann", 50), client("bob", 48)]
    assert not disagreeing([*others, client("cid", 0, 1)]) and not disagreeing([*others, client("cid", 30)])
    assert not disagreeing([client("ann", 25), client("bob", 26), client("cid", 15)])
    assert [one.client for one in disagreeing([*others, client("cid", 0, 3)])] == ["cid"]
    assert [one.client for one in disagreeing([*others, client("cid", 9)])] == ["cid"]


def test_of_many_that_stand_out_a_few_are_named_and_the_rest_counted():
    odd = (OddRow(label=0, row="ab" * 32, norm=0.0),)
    said = remarks([client(f"c{k:03d}", 50, odd=odd) for k in range(60)], CLASSES)
    assert len(said) == 4 and "'c000'" in said[0] and "57 more" in said[-1]
    nothing = [Account(client=f"c{k}", claimed=1, images=0, rows=2, empty=2) for k in range(60)]
    (line,) = remarks(nothing, CLASSES)
    assert "'c0' (1 images)" in line and "55 more" in line


def test_a_data_set_tells_and_a_run_says_whose_every_row_was_displaced(random_mini, idle, tmp_path, capsys):
    make = maker(random_mini)
    sent = [make("ann", [("bag", 1, 600), ("bag", 2, 400)]), make("eve", [("bag", 3, 10**9), ("hat", 4, 1)])]
    synthesize(idle(), merge_payloads(sent), SMALL, tmp_path / "synth")
    assert "no row of 'ann' (1,000 images) draws an image" in capsys.readouterr().err
    drawn = Drawn.of(tmp_path / "synth")
    ann, eve = accounts_in(drawn)
    assert (ann.claimed, ann.images, ann.rows, ann.empty) == (1000, 0, 2, 2) and eve.images == 8
    assert (
        '{"client": "ann", "claimed": 1000, "images": 0, "rows": 2, "empty": 2,'
        in (tmp_path / "synth" / "dataset.json").read_text()
    )
    assert CliRunner().invoke(app, ["report", str(tmp_path / "synth")]).exit_code == 0
    page = (tmp_path / "synth.html").read_text()
    assert "<h2>Clients</h2>" in page and "No row of &#39;ann&#39;" in page


def test_a_folder_without_accounts_is_the_same_data_set_and_tells_what_its_rows_do(random_mini, idle, tmp_path):
    merged = merge_payloads([maker(random_mini)("ann", [("bag", 1, 3)])])
    synthesize(idle(), merged, SMALL, tmp_path)
    before, facts = content(tmp_path), json.loads((tmp_path / "dataset.json").read_text())
    del facts["accounts"]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    assert synthesize(idle(), merged, SMALL, tmp_path).images == 0
    assert accounts_in(Drawn.of(tmp_path))[0].reckoned == ("ann", 3, 4, 1, 0)
    facts["accounts"] = json.loads(before["dataset.json"])["accounts"]
    odd = {"label": 0, "row": "ab" * 32}
    for lie in ({"images": 5}, {"client": "bob"}, {"agreed": 1}, {"odd": [odd | {"nearest": 3}]}, {"compared": 10**9}):
        told = [facts["accounts"][0] | lie]
        (tmp_path / "dataset.json").write_text(json.dumps(facts | {"accounts": told}))
        with pytest.raises(BadInputError, match="accounts"):
            Drawn.of(tmp_path)


def test_synthesize_asks_for_an_absurd_claim_by_name_before_an_engine_is_built(random_mini, tmp_path, tiny_recipe):
    make, engines = maker(random_mini), tmp_path / "engines"
    save_payload(make("ann", [("bag", 1, 600)]), tmp_path / "ann.safetensors")
    save_payload(make("eve", [("bag", 0x3C01, 10**9)]), tmp_path / "eve.safetensors")
    asked = ["synthesize", "--recipe", tiny_recipe, "--embeddings", str(tmp_path / "*.safetensors"), "--dry-run"]
    asked += ["--out", str(tmp_path / "out"), "--engines", str(engines)]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 4 and "'eve' claims 1,000,000,000" in refused.stderr
    assert "--trusted-counts CLIENT" in " ".join(refused.stderr.split()) and not engines.exists()
    for more in (["--trusted-counts", "eve"], ["--max-share-per-client", "0.5"]):
        assert CliRunner().invoke(app, [*asked, *more]).exit_code == 0
    typo = CliRunner().invoke(app, [*asked, "--trusted-counts", "Eve"])
    assert typo.exit_code == 2 and "no client Eve" in typo.stderr


def test_a_run_from_python_asks_too(random_mini, tmp_path):
    make = maker(random_mini)
    sent = [make("ann", [("bag", 1, 600)]), make("eve", [("bag", 2, 10**9)])]
    with pytest.raises(BadInputError, match="'eve' claims") as refused:
        run_one_shot(sent, tmp_path / "run")
    assert "trusted_counts" in refused.value.hint and not (tmp_path / "run").exists()


def test_a_run_file_names_who_is_trusted(random_mini, tmp_path):
    save_payload(maker(random_mini)("eve", [("bag", 0x3C01, 10**9)]), tmp_path / "eve.safetensors")
    (tmp_path / "run.toml").write_text('trusted_counts = ["eve"]\n')
    asked = ["synthesize", "--embeddings", str(tmp_path / "*.safetensors"), "--out", str(tmp_path / "out")]
    shown = CliRunner().invoke(app, [*asked, "--config", str(tmp_path / "run.toml"), "--print-config"])
    assert shown.exit_code == 0 and 'trusted_counts = [\n    "eve",\n]' in shown.stdout
    assert "trusted_counts" not in CliRunner().invoke(app, [*asked, "--print-config"]).stdout
