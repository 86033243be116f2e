import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import webdataset
from diffusers import StableDiffusionPipeline
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, UsageError
from fglfast.engine.build import build_engine
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads, row_digests
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.shards.locks import locked
from fglfast.shards.tar import decode_image, read_samples
from fglfast.synthesis.conditioning import Conditioning
from fglfast.synthesis.drawn import Drawn
from fglfast.synthesis.foresight import estimate
from fglfast.synthesis.settings import SynthesisSettings
from fglfast.synthesis.synthesize import check_work, synthesize
from fglfast.verbs.app import app

SETTINGS = SynthesisSettings(images_per_class=7, shard_size=8, sampling=Sampling(steps=2, guidance_scale=2.0))


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


def pixels(folder):
    return {
        name: np.asarray(decode_image(sample.image)).astype(int)
        for tar in sorted(folder.glob("*.tar"))
        for name, sample in read_samples(tar)
    }


@pytest.fixture(scope="module")
def whole(engine, merged, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    result = synthesize(engine, merged, SETTINGS, out)
    assert result.images == 21 and 0 < result.network_share <= 1
    return out


def test_webdataset_reads_it_and_classes_are_balanced(whole):
    urls = [str(path) for path in sorted(whole.glob("*.tar"))]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(rows) == 21 and rows[0]["png"].shape == (32, 32, 3)
    assert sorted(row["cls"] for row in rows) == [0] * 7 + [1] * 7 + [2] * 7
    assert all(row["json"].keys() == {"class", "row", "ordinal", "seed", "engine"} for row in rows)
    shared = [row for row in Drawn.of(whole).rows if row.label == 0]  # ann and bob send the same prompt: it is one row
    assert [(row.images, row.claims) for row in shared] == [(7, {"ann": 3, "bob": 1})]


def test_resume_and_ranks_give_the_same_bytes(whole, engine, merged, tmp_path):
    for rank in (2, 0, 1):
        synthesize(engine, merged, SETTINGS, tmp_path, rank, world_size=3)
    assert hashes(tmp_path) == hashes(whole)
    (tmp_path / "train-000001.tar").unlink()
    again = synthesize(engine, merged, SETTINGS, tmp_path)
    assert again.images == 8 and again.found == 13 and hashes(tmp_path) == hashes(whole)
    assert (tmp_path / "dataset.json").read_bytes() == (whole / "dataset.json").read_bytes()


def test_text_is_projected_once_for_equal_rows_and_not_once_a_step(engine, merged, tmp_path):
    projected = []

    def project(text):
        projected.append(len(text))
        return engine.networks.project(text)

    watched = replace(engine, networks=replace(engine.networks, project=project))
    synthesize(watched, merged, SETTINGS, tmp_path)
    assert sum(projected) <= 1 + 3 * 4 and projected[0] == 1  # the negative prompt, then the unique rows of each batch


def test_images_do_not_depend_on_the_batch_size(whole, engine, merged, recipe, tmp_path):
    batches = {"unet_batch": 6, "vae_batch": 2}
    other = build_engine(recipe.model_copy(update=batches), engine.model, engine.folder.parent)
    synthesize(other, merged, SETTINGS, tmp_path / "out")
    drawn = pixels(tmp_path / "out")
    for name, image in pixels(whole).items():
        assert np.abs(image - drawn[name]).max() <= 1


def test_token_payloads_are_drawn_from_the_text_of_their_embeddings(engine, payload, merged, tmp_path):
    """By other noise: what a client sent names an image."""
    tokens = merge_payloads([payload("ann", (3, 0, 1), tokens=True), payload("bob", (1, 5, 0), tokens=True)])
    one, other = (Conditioning(some, engine).rows(range(4)) for some in (merged, tokens))
    assert torch.allclose(one, other, atol=1e-2)
    assert synthesize(engine, tokens, SETTINGS, tmp_path).images == 21
    assert {row.row for row in Drawn.of(tmp_path).rows}.isdisjoint(row_digests(merged))


def test_another_plan_in_the_folder_is_refused(whole, engine, merged):
    with pytest.raises(UsageError, match="another data set: seed 0 there, 1 here"):
        synthesize(engine, merged, SETTINGS.model_copy(update={"seed": 1}), whole)


def test_a_readme_of_ones_own_is_not_written_over(engine, merged, tmp_path):
    (tmp_path / "README.md").write_text("my photos")
    with pytest.raises(UsageError, match=r"README\.md of its own"):
        synthesize(engine, merged, SETTINGS, tmp_path)
    with pytest.raises(UsageError, match=r"README\.md of its own"):  # as a dry run does
        check_work(merged, SETTINGS, tmp_path, engine.model, engine.build.image_size)
    assert (tmp_path / "README.md").read_text() == "my photos"


def test_two_runs_in_one_folder_are_refused(whole, engine, merged):
    with locked(whole), pytest.raises(UsageError, match="another run"):
        synthesize(engine, merged, SETTINGS, whole)


def test_payloads_of_another_encoder_are_refused(engine, payload, tmp_path):
    made = payload("ann", (1, 1, 1))
    changed = type(made)(**{**vars(made), "header": made.header.model_copy(update={"text_encoder": "0" * 64})})
    with pytest.raises(BadInputError, match="text encoder"):
        synthesize(engine, merge_payloads([changed]), SETTINGS, tmp_path)


def test_dry_run_counts_what_is_left(whole, engine, merged):
    (whole / "train-000002.tar").rename(whole / "moved")
    plan = estimate(engine, merged, SETTINGS, whole)
    (whole / "moved").rename(whole / "train-000002.tar")
    assert plan["images"] == 21 and plan["images_left"] == 5 and plan["shards"] == 3


def test_guidance_one_makes_a_single_pass(random_mini):
    passes = []

    def denoiser(latents, timestep, text):
        passes.append(len(latents))
        return latents

    noise, text = torch.randn(2, 8, 8, 8), torch.zeros(2, 16, 64)
    for asked in (
        Sampling(steps=3, guidance_scale=1.0),
        Sampling(steps=3, guidance_scale=2.0),
        Sampling(steps=3, guidance_scale=2.0, guidance_interval=(0.4, 0.8)),
    ):
        schedule = Schedule.of_model(random_mini, asked)
        sample(denoiser, noise, text, text[0], schedule)
        assert schedule.passes() == sum(passes[-3:]) / 2
    assert passes == [2, 2, 2, 4, 4, 4, 2, 4, 2]


def test_stock_diffusers_pipeline_makes_the_same_images(engine, random_mini):
    """Same noise, same steps, same guidance: plain diffusers and our sampler agree."""
    pipeline = StableDiffusionPipeline.from_pretrained(random_mini)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(3, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    theirs = pipeline(
        ["t-shirt"] * 3, latents=noise, num_inference_steps=6, guidance_scale=2.0, height=32, width=32, output_type="pt"
    ).images
    tokens = pipeline.tokenizer(["t-shirt", ""], padding="max_length", return_tensors="pt").input_ids
    text = engine.networks.project(engine.networks.encode(tokens))
    schedule = Schedule.of_model(random_mini, Sampling(steps=6, guidance_scale=2.0))
    latents = sample(engine.networks.denoise, noise, text[:1].expand(3, -1, -1), text[1], schedule)
    ours = (engine.networks.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(ours, theirs.float(), atol=2e-3)


def test_kill_nine_at_any_moment_then_the_same_command(engine, random_mini, payload, recipe, tmp_path):
    save_payload(payload("ann", (3, 1, 1)), tmp_path / "ann.safetensors")
    (tmp_path / "r.toml").write_text(recipe.to_toml())
    command = [sys.executable, "-m", "fglfast", "synthesize", "--embeddings", str(tmp_path / "*.safetensors")]
    command += ["--recipe", str(tmp_path / "r.toml"), "--model", str(random_mini), "--steps", "40"]
    command += ["--images-per-class", "40", "--shard-size", "10", "--engines", str(engine.folder.parent), "--out"]
    assert CliRunner().invoke(app, [*command[3:], str(tmp_path / "whole")]).exit_code == 0
    out = tmp_path / "killed"
    for killed_at in (1, 4):
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while len(list(out.glob("*.tar"))) < killed_at and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert 4 <= len(hashes(out)) < 12
    subprocess.run([*command, str(out)], check=True, capture_output=True)
    assert hashes(out) == hashes(tmp_path / "whole") and len(hashes(out)) == 12
