import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from reference import KilledError
from safetensors.torch import load_file

from fglfast.base.errors import BadInputError, UsageError
from fglfast.generator.architecture import MiniSettings, build_tokenizer, build_unet, build_vae
from fglfast.generator.learning.autoencoder import narrow
from fglfast.generator.learning.couplings import COUPLINGS
from fglfast.generator.learning.fitting import Fit, FitSettings
from fglfast.generator.learning.flow import lesson
from fglfast.generator.learning.pretrain import PretrainSettings, pretrain
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.parts import BUNDLED
from fglfast.generator.text import load_prompts, native_image_size, resolve_model
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset
from fglfast.images.labelled import LabelledImages
from fglfast.sampler.sample import sample
from fglfast.sampler.schedule import Sampling, Schedule

SMALL = PretrainSettings(
    model=MiniSettings(unet_channels=(32, 32), vae_channels=(16, 16, 16)),
    vae=FitSettings(steps=6, batch_size=4, learning_rate=1e-3, warmup_steps=2),
    flow=FitSettings(steps=6, batch_size=4, learning_rate=1e-3, warmup_steps=2),
)


def test_a_stopped_pretraining_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    data = read_dataset("fashion:private").select(range(0, 5000, 250))
    whole = pretrain(data, tmp_path / "whole", SMALL)
    one_step = Fit._one_step

    def dying(self, loss_function):
        if self.name == "flow" and self.step == 3:
            self.save()
            raise KilledError
        return one_step(self, loss_function)

    monkeypatch.setattr(Fit, "_one_step", dying)
    with pytest.raises(KilledError):
        pretrain(data, tmp_path / "cut", SMALL)
    monkeypatch.setattr(Fit, "_one_step", one_step)
    resumed = pretrain(data, tmp_path / "cut", SMALL)
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        one, other = load_file(whole / name), load_file(resumed / name)
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert {path.name for path in (tmp_path / "whole" / "grids").iterdir()} == {"vae-000006.png", "flow-000006.png"}
    assert (whole / "prompts.json").exists() and "20 images of 10 classes" in (whole / "README.md").read_text()
    with pytest.raises(BadInputError, match="other images"):
        pretrain(data.select([0, 1]), tmp_path / "cut", SMALL)
    longer = SMALL.model_copy(update={"vae": SMALL.vae.model_copy(update={"steps": 8})})
    with pytest.raises(BadInputError, match="flow learned from the latents of a VAE of fewer steps"):
        pretrain(data, tmp_path / "cut", longer)
    (tmp_path / "cut" / "state" / "flow.pt").unlink()
    before = (tmp_path / "cut" / "state" / "latents.safetensors").read_bytes()
    pretrain(data, tmp_path / "cut", longer)
    assert (tmp_path / "cut" / "state" / "latents.safetensors").read_bytes() != before


def test_colour_images_of_another_size_with_captions_of_their_own(tmp_path, capsys):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    openers = tuple(lambda image=image: Image.fromarray(image) for image in pixels)
    data = LabelledImages(("cat", "dog"), np.arange(12) % 2, openers, (), "made")
    captions = [f"a {'very ' * 18}small one, number {row}" for row in range(11)] + ["word " * 200]
    model = MiniSettings.of("tiny", 48).model_copy(update={"unet_channels": (16, 32, 32), "vae_channels": (16, 16, 16)})
    folder = pretrain(data, tmp_path, SMALL.model_copy(update={"model": model, "seed": 3}), captions)
    assert read_shapes(folder, 48).latent == (8, 12, 12) and native_image_size(folder) == 48
    assert "1 of 24 prompts are longer than 77 tokens" in capsys.readouterr().err
    ids = TextEncoder.load(folder).tokenize([f"cat, {captions[0]}", f"cat, {captions[2]}"])
    assert ids.shape == (2, 77) and (ids[0] != ids[1]).any()
    assert "what came with the image" in (folder / "README.md").read_text()
    with pytest.raises(BadInputError, match="captions"):
        pretrain(data, tmp_path, SMALL.model_copy(update={"model": model, "seed": 3}), captions[::-1])


def test_captions_alone_are_learned_without_a_class(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    openers = tuple(lambda image=image: Image.fromarray(image) for image in pixels)
    data = LabelledImages(("food", "things"), np.arange(12) % 2, openers, (), "made")
    captions = [f"thing{row}, sketch" for row in range(12)]
    alone = SMALL.model_copy(update={"classes": False})
    folder = pretrain(data, tmp_path / "drawings", alone, captions)
    assert "12 of 12 images looked at are smaller than 32 pixels" in capsys.readouterr().err
    assert load_prompts(folder, "sketch").instance_level == "{caption}, sketch"
    encoder = TextEncoder.load(folder)
    known, unknown = encoder.tokenizer.sizes(["thing3, sketch", "food, sketch"])
    assert known < unknown, "a class name is in no prompt, so its word is no token of its own"
    card = (folder / "README.md").read_text()
    assert "# drawings:" in card and "captions and no class" in card and "labelled" not in card
    last = json.loads((tmp_path / "drawings" / "state" / "flow-metrics.jsonl").read_text().splitlines()[-1])
    assert f"{last['held_out']:.4f} |" in card
    with pytest.raises(UsageError, match="nothing to learn"):
        pretrain(data, tmp_path / "none", alone)


@pytest.mark.parametrize("side", [32, 64, 96, 128])
@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_every_size_is_a_network_that_runs(size, side):
    model = MiniSettings.of(size, side)
    assert model.latent_size == (side // 8 if side >= 96 else side // 4)
    with torch.device("meta"):
        vae, unet = build_vae(model), build_unet(model)
        images = vae.decode(torch.empty(1, model.latent_channels, model.latent_size, model.latent_size)).sample
        latents = torch.empty(1, model.latent_channels, model.latent_size, model.latent_size)
        predicted = unet(latents, torch.empty(1), torch.empty(1, 5, model.text_width)).sample
    assert images.shape == (1, 3, side, side) and predicted.shape == latents.shape


def test_bfloat16_learns_the_same_within_its_rounding(tmp_path, monkeypatch):
    data = read_dataset("fashion:private").select(range(0, 5000, 500))
    losses = []
    for native in (False, True):
        monkeypatch.setattr("fglfast.generator.learning.autoencoder.native_bfloat16", lambda native=native: native)
        pretrain(data, tmp_path / str(native), SMALL)
        rows = (tmp_path / str(native) / "state" / "flow-metrics.jsonl").read_text().splitlines()
        losses.append(json.loads(rows[-1])["held_out"])
    assert losses[0] != losses[1] and abs(losses[0] / losses[1] - 1) < 0.02


def test_on_a_processor_attention_stays_float32_beside_bfloat16(monkeypatch):
    """Its gradients are slow in bfloat16."""
    monkeypatch.setattr("fglfast.generator.learning.autoencoder.native_bfloat16", lambda: True)
    attention = torch.nn.functional.scaled_dot_product_attention
    heads = torch.randn(1, 2, 4, 8, requires_grad=True)
    with narrow("cpu"):
        product = torch.nn.functional.linear(heads, torch.eye(8))
        found = attention(product, product, product)
    assert product.dtype == found.dtype == torch.bfloat16
    assert torch.equal(found.detach(), attention(*[product.detach().float()] * 3).bfloat16())
    found.sum().backward()
    assert heads.grad is not None


def test_a_loss_that_no_longer_falls_ends_the_training_early_and_again_after_a_kill(tmp_path, capsys):
    settings = FitSettings(steps=1000, batch_size=1, learning_rate=1e-3, warmup_steps=2)

    def fit():
        torch.manual_seed(0)
        return Fit("flow", torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 1)}), settings, tmp_path)

    def loss_function(batch_size, generator):
        return one.modules["layer"](torch.randn(batch_size, 2, generator=generator)).square().mean()

    seen, held_out = [], iter([1.0, 0.5, 0.4999, 0.5, 0.6, 0.6, 0.6, 0.6])
    one = fit()
    one.run(loss_function, seen.append, grid_every=15, held_out=lambda: next(held_out))
    assert seen == [15, 30, 45, 60, 75, 90, 100], "two better, three not, from 75 on the rate falls for a quarter"
    assert "ends at 100 of 1000 steps" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "flow-metrics.jsonl").read_text().splitlines()]
    assert [row["held_out"] for row in rows if "held_out" in row] == [1.0, 0.5, 0.4999, 0.5, 0.6, 0.6, 0.6]
    one = fit()
    assert one.end == one.step == 100
    settings = settings.model_copy(update={"steps": 2000})
    assert fit().end == 2000, "asked for more, it goes on"


def test_the_rate_warms_up_stays_and_decays():
    fit = FitSettings(steps=1000, batch_size=1, learning_rate=1.0, warmup_steps=100)
    rates = [fit.rate_at(step) for step in range(1000)]
    assert rates[0] == 0.01 and rates[100] == rates[700] == 1.0 and rates[999] < 0.01
    assert rates[751:] == sorted(rates[751:], reverse=True)
    short = FitSettings(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=200)
    rates = [short.rate_at(step) for step in range(100)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) < 0.45, "no jump where warming up is cut short"


def test_a_lesson_lies_on_the_path_and_weighs_its_rows():
    x0, condition = torch.randn(64, 2, 3, 3), torch.zeros(64)
    taught = lesson(x0, condition, COUPLINGS["w-cfm"](), torch.Generator().manual_seed(0))
    t = taught.t.view(-1, 1, 1, 1)
    assert torch.allclose(taught.x, x0 + t * taught.target, atol=1e-5) and bool(((t > 0) & (t < 1)).all())
    error = (torch.zeros_like(x0) - taught.target).square().flatten(1).mean(1)
    assert torch.allclose(taught.loss(torch.zeros_like(x0)), (taught.weight * error).sum() / 64)
    assert 0 < taught.effective < 1


@pytest.mark.parametrize("coupling", ["ot", "sparse-ot", "w-cfm", "immiscible"])
def test_every_coupling_trains_and_its_effective_sample_size_is_logged(tmp_path, coupling):
    data = read_dataset("fashion:private").select(range(0, 5000, 500))
    settings = SMALL.model_copy(update={"coupling": coupling})
    pretrain(data, tmp_path, settings)
    logged = json.loads((tmp_path / "state" / "flow-metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < logged["effective"] <= 1
    with pytest.raises(BadInputError, match="coupling"):
        pretrain(data, tmp_path, SMALL)


def test_words_of_captions_are_one_token_and_any_text_encodes():
    tokenizer = build_tokenizer(["ankle boot, dark plain wide", "trouser"] * 2, 16)
    assert len(tokenizer("dark boot").input_ids) == 4
    ids = tokenizer(["größe 犬", ""], padding="max_length", truncation=True).input_ids
    assert [len(row) for row in ids] == [16, 16] and ids[0] != ids[1]


@pytest.mark.parametrize("name", BUNDLED)
def test_what_is_shipped_fits(name):
    folder = resolve_model(name)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 16_000_000


def test_shipped_mini_draws_in_stock_diffusers():
    folder = resolve_model("mini")
    assert read_shapes(folder, 32).latent == (8, 8, 8)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        ["trouser", "bag"],
        num_inference_steps=10,
        guidance_scale=1.5,
        height=32,
        width=32,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    ink = np.asarray(images).mean(axis=3) > 0.2
    trouser, bag = ink[0].mean(), ink[1].mean()
    assert 0.1 < trouser < bag, "trousers are narrow, bags fill the picture"
    assert np.abs(images[..., 0] - images[..., 1]).mean() < 0.05, "the public images are gray"


def test_stock_diffusers_and_our_sampler_draw_the_same_images_with_mini():
    """The shipped weights, the same noise, the same steps, guidance on."""
    folder = resolve_model("mini")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        ["bag", "coat"], latents=noise, num_inference_steps=8, guidance_scale=1.5, height=32, width=32, output_type="pt"
    ).images
    encoder, generator = TextEncoder.load(folder), load_generator(folder)
    text = torch.from_numpy(encoder.encode(encoder.tokenize(["bag", "coat", ""])))
    schedule = Schedule.of_model(folder, Sampling(steps=8, guidance_scale=1.5))
    with torch.inference_mode():
        text = generator.projection(text)
        latents = sample(generator.unet, noise, text[:2], text[2], schedule)
        ours = (generator.decoder(latents) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(ours, theirs, atol=2e-3)
