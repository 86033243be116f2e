"""Images with a judge's scores: the same whatever the batch, drawn again alike, and left out by a list."""

import json

import numpy as np
import pytest
from idle_engine import idle_engine
from living import content, maker, scores
from typer.testing import CliRunner

from fglfast.base.errors import UsageError
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.schedule import Sampling
from fglfast.shards.description import read_description
from fglfast.shards.keep import LEFT_OUT, leave_out
from fglfast.shards.tar import decode_image, read_samples
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.forget import forget
from fglfast.synthesis.repair import repair
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import synthesize
from fglfast.synthesis.verify import verify
from fglfast.training.settings import Job, TrainSettings
from fglfast.training.worker import load_data
from fglfast.verbs import for_servers
from fglfast.verbs.app import app


class Bright:
    """The brighter, the better; it also tells how many images it was given at once."""

    fingerprint = "ab" * 32

    def __init__(self):
        self.batches = set()

    def __call__(self, pixels_BSS3, labels):
        self.batches.add(len(pixels_BSS3))
        assert len(labels) == len(pixels_BSS3)
        return pixels_BSS3.mean((1, 2, 3)).round(2) / 255


ASKED = SynthesisSettings(
    images_per_class=9, shard_size=4, sampling=Sampling(steps=1, guidance_scale=1.0), judge=Bright.fingerprint
)


@pytest.fixture
def merged(random_mini):
    make = maker(random_mini)
    sent = {"ann": [("bag", 1, 3), ("shoe", 2, 1)], "bob": [("bag", 3, 5), ("shoe", 4, 2)]}
    return merge_payloads([make(client, rows) for client, rows in sent.items()])


def test_every_image_has_the_score_of_its_pixels_whatever_the_batch(random_mini, merged, tmp_path):
    judge = Bright()
    synthesize(idle_engine(random_mini), merged, ASKED, tmp_path / "one", judge=judge)
    assert judge.batches == {8}, "it sees batches of one size"
    for tar in (tmp_path / "one").glob("*.tar"):
        for _, sample in read_samples(tar):
            pixels = np.asarray(decode_image(sample.image))[None]
            assert sample.facts["score"] == judge(pixels, [sample.label])[0]
    synthesize(idle_engine(random_mini, batch=5), merged, ASKED, tmp_path / "other", judge=Bright())
    assert content(tmp_path / "one") == content(tmp_path / "other")
    assert "score" in (tmp_path / "one" / "README.md").read_text()


def test_shards_are_drawn_again_with_their_scores_by_the_same_judge_alone(random_mini, merged, tmp_path):
    engine, out = idle_engine(random_mini), tmp_path / "out"
    synthesize(engine, merged, ASKED, out, judge=Bright())
    before = content(out)
    shard = out / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(UsageError, match="judge"):
        repair(engine, merged, out, verify(out, merged))
    repair(engine, merged, out, verify(out, merged), Bright())
    assert content(out) == before


def test_another_judge_or_none_is_refused(random_mini, merged, tmp_path):
    engine, out = idle_engine(random_mini), tmp_path / "out"
    with pytest.raises(UsageError, match="judge"):
        synthesize(engine, merged, ASKED, out)
    synthesize(engine, merged, ASKED, out, judge=Bright())
    with pytest.raises(UsageError, match="judge"):
        synthesize(engine, merged, ASKED.model_copy(update={"judge": None}), out, update=True)


def test_who_is_forgotten_takes_the_list_along_and_new_images_have_scores(random_mini, merged, tmp_path):
    engine, out, make = idle_engine(random_mini), tmp_path / "out", maker(random_mini)
    synthesize(engine, merged, ASKED, out, judge=Bright())
    leave_out(out, read_description(out), "50%")
    stays = [make("bob", [("bag", 3, 5), ("shoe", 4, 2)])]
    forget("ann", stays, out, lambda: engine, Bright())
    assert len(scores(out)) == 18 and not (out / LEFT_OUT).exists()


def test_training_leaves_out_what_is_listed_or_what_it_is_told_to(random_mini, merged, tmp_path):
    out, settings = tmp_path / "out", TrainSettings(batch_size=2, validation_share=0.0)
    synthesize(idle_engine(random_mini), merged, ASKED, out, judge=Bright())
    description, found = read_description(out), np.array(scores(out))

    def rows(keep=None):
        job = Job(synthetic=out, out=tmp_path / "m", settings=settings.model_copy(update={"keep": keep}))
        return load_data(job, description)[1].train.tolist()

    bound = float(np.median(found))
    assert rows() == list(range(18))
    assert rows(f"{bound}") == np.flatnonzero(found >= bound).tolist()
    leave_out(out, description, "34%")
    assert len(rows()) == 6 and len(rows("100%")) == 18


def test_the_verb_scores_and_leaves_out(random_mini, tmp_path, monkeypatch):
    monkeypatch.setattr(for_servers, "open_engine", lambda *_, **__: idle_engine(random_mini))
    monkeypatch.setattr(for_servers, "open_judge", lambda name, names, drawing: Bright() if name else None)
    make = maker(random_mini)
    save_payload(make("ann", [("bag", 1, 3), ("hat", 2, 1)]), tmp_path / "ann.safetensors")
    asked = ["synthesize", "--embeddings", str(tmp_path / "ann.safetensors"), "--out", str(tmp_path / "out")]
    asked += ["--model", str(random_mini), "--images-per-class", "10", "--recipe", "mini", "--keep", "80%"]
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2 and "--judge" in refused.output
    done = CliRunner().invoke(app, [*asked, "--judge", "bright"])
    assert done.exit_code == 0, done.output
    listed = json.loads((tmp_path / "out" / LEFT_OUT).read_text())
    assert len(listed["images"]) == 4 and Drawn.of(tmp_path / "out").judge == Bright.fingerprint
    assert "unmarked" not in done.output
    unpacked = CliRunner().invoke(app, [*asked, "--judge", "bright", "--format", "imagefolder"])
    assert unpacked.exit_code == 0 and "the imagefolder holds those too, unmarked" in unpacked.output
    none = CliRunner().invoke(app, [*asked, "--judge", "bright", "--keep", "1"])
    assert none.exit_code == 4 and "--keep 1 leaves no image" in none.output
