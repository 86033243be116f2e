"""From a compiled teacher to a student that is compiled in its turn."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.client.embed import embed
from fglfast.distill.distill import DistillSettings, _bend, distill
from fglfast.distill.pairs import draw_pairs, read_pairs, shard_path
from fglfast.distill.steps import place
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.generator.learning.fitting import FitSettings
from fglfast.generator.learning.paths import LINEAR
from fglfast.generator.learning.student import Pairs, Task
from fglfast.generator.load import load_generator
from fglfast.images.dataset import read_dataset
from fglfast.payload import save_payload
from fglfast.payload.merge import merge_payloads
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule
from fglfast.synthesis.conditioning import Conditioning
from fglfast.verbs.app import app

TEACHER = Sampling(steps=2, guidance_scale=2.0)


@pytest.fixture(scope="module")
def payload(random_mini):
    dataset = read_dataset("fashion:private").select(np.arange(12))
    return embed(dataset, "ann", random_mini)


@pytest.fixture(scope="module")
def merged(payload):
    return merge_payloads([payload])


@pytest.fixture
def given(payload, tmp_path):
    """Make options of a verb: a payload, a recipe with these lines beside the backend and the size, engines' folder."""

    def options(lines):
        save_payload(payload, tmp_path / "ann.safetensors")
        (tmp_path / "tiny.toml").write_text(f'backend = "torch"\nimage_size = 32\n{lines}\n')
        named = ["--embeddings", tmp_path / "ann.safetensors", "--recipe", tmp_path / "tiny.toml"]
        return [*map(str, named), "--engines", str(tmp_path / "engines")]

    return options


def test_pairs_are_what_the_teacher_makes_of_their_noise(engine, merged, tmp_path):
    drawn = draw_pairs(engine, merged, 3, 7, TEACHER, tmp_path)
    pairs = read_pairs(drawn, merged, engine.shapes.latent)
    assert len(pairs) == drawn.plan.images
    noise, data, text = pairs.batch(torch.tensor([4]))
    item = drawn.plan.shard(0)[4]
    conditioning, schedule = Conditioning(merged, engine), Schedule.of_model(engine.model, TEACHER)
    again = sample(
        engine.networks.denoise, noise, conditioning.rows([item.row]), conditioning.negatives([item.row]), schedule
    )
    assert torch.allclose(again, data, atol=2e-2)
    assert torch.equal(text[0], torch.from_numpy(merged.embeddings[merged.content[item.row]]).float())


def test_a_step_without_guidance_asks_no_more_of_the_network_than_it_needs(engine, merged, tmp_path):
    batch, asked, own = engine.build.unet_batch, [], engine.networks
    counted = replace(own, denoise=lambda *given: asked.append(len(given[0])) or own.denoise(*given))
    engine = replace(engine, networks=counted)
    drawn = draw_pairs(engine, merged, batch, 7, TEACHER.changed(guidance_interval=(0.5, 1.0)), tmp_path)
    schedule = Schedule.of_model(engine.model, TEACHER.changed(guidance_interval=(0.5, 1.0)))
    assert sum(asked) == drawn.plan.images * schedule.passes() and drawn.plan.images % batch == 0
    assert schedule.passes() < 2 * TEACHER.steps and min(asked) == batch


def test_pairs_go_on_where_they_were_stopped_and_belong_to_one_plan(engine, merged, tmp_path, monkeypatch):
    monkeypatch.setattr("fglfast.distill.pairs.SHARD", 8)
    drawn = draw_pairs(engine, merged, 3, 7, TEACHER, tmp_path)
    before = {number: shard_path(tmp_path, number).read_bytes() for number in range(drawn.plan.shards)}
    assert len(before) > 2
    shard_path(tmp_path, 1).unlink()
    kept = shard_path(tmp_path, 0).stat().st_mtime_ns
    draw_pairs(engine, merged, 3, 7, TEACHER, tmp_path)
    assert {number: shard_path(tmp_path, number).read_bytes() for number in before} == before
    assert shard_path(tmp_path, 0).stat().st_mtime_ns == kept
    seconds = json.loads((tmp_path / "seconds.json").read_text())
    assert len(seconds) == drawn.plan.shards
    again = draw_pairs(engine, merged, 3, 7, TEACHER, tmp_path)  # nothing is left to draw, and the seconds stay
    assert again.seconds == pytest.approx(sum(seconds.values())) and again.seconds > 0
    (tmp_path / "seconds.json").write_text("{}")
    assert draw_pairs(engine, merged, 3, 7, TEACHER, tmp_path).seconds is None
    with pytest.raises(BadInputError, match="another teacher or payloads"):
        draw_pairs(engine, merged, 3, 8, TEACHER, tmp_path)


def test_the_command_makes_a_student_that_is_a_generator(given, random_mini, tmp_path):
    base, made = given("[sampling]\nsteps = 2\nguidance_scale = 1.0"), ["--out", str(tmp_path / "student")]
    few = ["--teacher", str(random_mini), "--steps", "2", "--pairs-per-class", "4", "--fit-steps", "3", "--json"]
    done = CliRunner().invoke(app, ["distill", *base, *made, *few])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["cost"]["pairs"] > 0 and found["cost"]["training"] > 0
    assert "how the teacher bends: 50/50" in done.stderr and "how the student bends: 2/2" in done.stderr
    assert found["pairs"] > 0 and found["before"]["curvature"] > 0 and found["after"] is not None
    told = (tmp_path / "student" / "model" / "unet" / "config.json").read_text()
    assert str(random_mini) not in told, "where the teacher lay is nobody's business"
    moved = (tmp_path / "student").rename(tmp_path / "moved")
    drawn = ["--recipe", str(moved / "recipe.toml"), "--out", str(tmp_path / "synth")]
    synth = CliRunner().invoke(app, ["synthesize", *base, *drawn, "--images-per-class", "2", "--json"])
    assert synth.exit_code == 0, synth.output
    moved.rename(tmp_path / "student")
    refused = CliRunner().invoke(app, ["distill", *base, *made, *few, "--method", "rectified-diffusion"])
    assert refused.exit_code == 2 and "use reflow" in refused.output
    other = CliRunner().invoke(app, ["distill", *base, *made, *few, "--guidance", "3"])
    assert other.exit_code == 4 and "other settings" in " ".join(other.output.split()), other.output


@pytest.mark.parametrize(
    "how", [["--blocks", "2", "--channels", "16,32"], ["--method", "mdt", "--guidance", "2"]], ids=["blocks", "mdt"]
)
def test_other_students_are_generators_too(how, given, random_mini, tmp_path):
    base = [*given("[sampling]\nsteps = 2"), "--json"]
    few = ["--teacher", str(random_mini), "--steps", "2", "--pairs-per-class", "4", "--fit-steps", "3"]
    done = CliRunner().invoke(app, ["distill", *base, *few, *how, "--out", str(tmp_path / "student")])
    assert done.exit_code == 0, done.output
    model = json.loads(done.stdout)["model"]
    draw = ["--model", model, "--images-per-class", "2", "--out", str(tmp_path / "synth")]
    assert CliRunner().invoke(app, ["synthesize", *base, *draw]).exit_code == 0
    if "--blocks" in how:
        assert json.loads((tmp_path / "student" / "model" / "blocks.json").read_text())["boundaries"] == [500.0]
        again = CliRunner().invoke(app, ["distill", *base, *few, "--teacher", model, "--out", str(tmp_path / "more")])
        assert again.exit_code == 2 and "blockwise" in again.output


def test_a_model_that_predicts_noise_has_students_too(narrow, payload, tmp_path, monkeypatch):
    """Stable Diffusion 1.5's architecture, guided; what comes out is loaded by a stock pipeline."""
    recipe = Recipe(model=str(narrow("sd15")), backend="torch", image_size=64, sampling=Sampling(steps=2))
    engine = build_engine(recipe, narrow("sd15"), tmp_path / "engines")
    dataset = read_dataset("fashion:private").select(np.arange(3))
    merged = merge_payloads([embed(dataset, "ann", narrow("sd15"))])
    settings = DistillSettings(
        method="rectified-diffusion",
        steps=2,
        teacher=Sampling(steps=2, guidance_scale=3.0),
        pairs_per_class=2,
        fit=FitSettings(steps=2, batch_size=2, learning_rate=1e-4),
    )
    asked = []

    def at(task, unet, x, t_B, text_BLD):
        asked.extend(task.clock(t_B).tolist())
        return ask(task, unet, x, t_B, text_BLD)

    ask = Task.ask
    monkeypatch.setattr(Task, "ask", at)
    written, found = distill(engine, merged, recipe, settings, tmp_path / "student")
    sampling = find_recipe(str(written)).sampling
    sampled = [timestep for timestep, _ in Schedule.of_model(tmp_path / "student" / "model", sampling).rows()]
    assert sampled == [999.0, 499.0] and set(asked) <= set(sampled)  # the model's own spacing: 501, 1, 1
    assert found.before is None and sampling.guidance_scale == 1.0
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "student" / "model", safety_checker=None)
    before, after = (load_generator(folder).unet for folder in (narrow("sd15"), tmp_path / "student" / "model"))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(moved) and all(torch.isfinite(weight).all() for weight in pipeline.unet.parameters())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--channels", "20,20"], "give multiples of 16"),
        (["--channels", "32"], "give as many"),
        (["--channels", "wide"], "list of whole numbers"),
        (["--blocks", "3"], "give fewer --blocks"),
        (["--blocks", "2", "--method", "mdt"], "give fewer --blocks"),
    ],
)
def test_what_makes_no_student_is_refused_in_one_line(wrong, said, given, random_mini, tmp_path):
    base = [*given("[sampling]\nsteps = 1"), "--teacher", str(random_mini), "--out", str(tmp_path / "no")]
    refused = CliRunner().invoke(app, ["distill", *base, "--steps", "2", "--pairs-per-class", "1", *wrong])
    assert refused.exit_code == 2 and said in " ".join(refused.output.split()), refused.output


@pytest.mark.parametrize(
    ("sampling", "method", "said"),
    [
        ('scheduler = "euler-ancestral"\nsteps = 3', "rectified-diffusion", "adds noise on its way"),
        ("steps = 2\nguidance_scale = 2.0\nguidance_interval = [0.2, 0.8]", "mdt", "guided at all noise levels"),
    ],
)
def test_a_teacher_that_the_method_does_not_fit_is_refused(sampling, method, said, given, random_mini, tmp_path):
    model = of_noise(random_mini, tmp_path) if method != "mdt" else random_mini
    base = [*given(f'model = "{model}"\n[sampling]\n{sampling}'), "--method", method, "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, ["distill", *base, "--steps", "1", "--pairs-per-class", "1"])
    assert refused.exit_code == 2 and said in " ".join(refused.output.split()), refused.output
    assert not (tmp_path / "engines").exists()


def of_noise(model, folder):
    """The same model, as if it predicted noise."""
    noisy = shutil.copytree(model, folder / "noisy")
    DDIMScheduler().save_pretrained(noisy / "scheduler")
    index = json.loads((noisy / "model_index.json").read_text()) | {"scheduler": ["diffusers", "DDIMScheduler"]}
    (noisy / "model_index.json").write_text(json.dumps(index))
    return noisy


def test_steps_are_placed_where_the_recipe_guides(payload, random_mini, tmp_path):
    """Outside its interval the network is asked with the prompt alone."""
    merged = merge_payloads([payload])
    sampling = Sampling(steps=2, guidance_scale=3.0, guidance_interval=(0.0, 0.5))
    recipe = Recipe(model=str(random_mini), backend="torch", image_size=32, sampling=sampling)
    engine, asked = build_engine(recipe, random_mini, tmp_path / "engines"), []

    def denoise(x, t, text):
        asked.append(float(t[0]))
        return torch.zeros_like(x)

    engine = replace(engine, networks=replace(engine.networks, denoise=denoise))
    place(engine, merged, recipe, 2, 4, 2)
    assert asked.count(1000.0) == 1 and asked.count(250.0) == 2, asked


def test_steps_of_a_model_of_noise_are_not_placed_and_no_engine_is_built(given, random_mini, tmp_path):
    base, placed = given(f'model = "{of_noise(random_mini, tmp_path)}"'), str(tmp_path / "placed.toml")
    refused = CliRunner().invoke(app, ["place-steps", *base, "--steps", "3", "--out", placed])
    assert refused.exit_code == 2 and "flow-matching models only" in refused.output
    assert not (tmp_path / "engines").exists()


def test_steps_are_placed_no_worse_than_equal_ones_and_the_recipe_draws(given, random_mini, tmp_path):
    base = given(f'model = "{random_mini}"\n[sampling]\nsteps = 2\nguidance_scale = 2.0')
    place = ["--steps", "3", "--grid", "12", "--trajectories", "4", "--json"]
    done = CliRunner().invoke(app, ["place-steps", *base, *place, "--out", str(tmp_path / "placed.toml")])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["timesteps"]) == 3 and found["timesteps"][0] == 1000 and found["cost"] <= found["uniform_cost"]
    draw = ["--recipe", str(tmp_path / "placed.toml"), "--images-per-class", "1", "--out", str(tmp_path / "synth")]
    assert CliRunner().invoke(app, ["synthesize", *base, *draw]).exit_code == 0
    uneven = CliRunner().invoke(app, ["place-steps", *base, *place, "--grid", "10", "--out", str(tmp_path / "x.toml")])
    assert uneven.exit_code == 2 and "multiple of 3" in uneven.output


def test_each_step_of_a_bend_asks_its_own_network():
    """Quotients round: by its time alone, the fifth of seven steps would be asked of the block before."""
    asked = []

    class Constant(torch.nn.Module):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def forward(self, x, timesteps, text, return_dict):
            asked.append(self.number)
            return (torch.ones_like(x),)

    some = torch.zeros(3, 2, 1, 1)
    first, second = Constant(0), Constant(1)
    found = _bend(
        "how it bends",
        [first] * 4 + [second] * 3,
        Task(LINEAR, "velocity", lambda t: 1000 * t),
        Pairs(some, some, some[:1, :, 0], torch.zeros(3).long()),
    )
    assert asked == [0] * 4 + [1] * 3 and found.curvature == 0
