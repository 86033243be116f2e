"""Checkpoints in one file: made into model folders of the same weights, or refused by their headers."""

from functools import partial

import huggingface_hub
import pytest
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from ldm_names import as_saved, save_checkpoint
from safetensors.torch import load_file, save_file

from fglfast.base.errors import BadInputError
from fglfast.engine.family import family_of
from fglfast.generator import families
from fglfast.generator.architecture import build_tokenizer
from fglfast.generator.checkpoint import KINDS, UNET, _weights, _whole
from fglfast.generator.families import padded_with
from fglfast.generator.kinds import check_kind
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.scheduler import CONFIG
from fglfast.generator.text import native_image_size, resolve_model
from fglfast.generator.text_encoder import TextEncoder
from fglfast.generator.tokens import load_tokenizer
from fglfast.generator.weights import weight_files
from fglfast.sampler.schedule import Sampling, Schedule


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FGLFAST_MODELS", str(tmp_path / "made"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("something was fetched"))
    return tmp_path / "made"


@pytest.fixture
def checkpoint(narrow, tmp_path, monkeypatch):
    """A narrow Stable Diffusion 1.x as one file, the words of its tokenizer beside it."""
    folder, path = narrow("sd15"), tmp_path / "files" / "some.safetensors"
    monkeypatch.setattr(families, "_networks", partial(families._networks, narrow=True))
    (path.parent / "tokenizer").mkdir(parents=True)
    save_checkpoint(folder, path)
    TextEncoder.load(folder).tokenizer.bpe.model.save(str(path.parent / "tokenizer"))
    return path


def test_a_checkpoint_becomes_a_folder_of_the_same_weights(checkpoint, narrow, kept):
    folder, origin = resolve_model(str(checkpoint)), narrow("sd15")
    assert folder.parent == kept and native_image_size(folder) == 512
    for name in ("unet", "vae", "text_encoder"):
        made, given = (load_file(*weight_files(place / name)) for place in (folder, origin))
        assert made.keys() == given.keys()
        assert all(torch.equal(made[key].float(), given[key].float()) for key in given)
    made, given = TextEncoder.load(folder), TextEncoder.load(origin)
    assert (made.tokenize(["a photograph"]) == given.tokenize(["a photograph"])).all()
    assert Schedule.of_model(folder, Sampling(steps=2)).config["beta_end"] == 0.012


FAMILIES = {"v1": "sd15", "v2": "sd21-base", "xl_base": "sdxl"}
# Narrow as far as those tensors allow by which a kind is told: 1024 channels of text, and a tenth layer.
NARROW_TEXTS = {"v1": ((32, 2, 4),), "v2": ((1024, 2, 16),), "xl_base": ((32, 2, 4), (64, 10, 4))}


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """Make a narrow model of a kind, no two of its weights alike, and its checkpoint beside it: (folder, file)."""

    def make(kind):
        family, texts = FAMILIES[kind], NARROW_TEXTS[kind]
        widths = {"cross_attention_dim": sum(width for width, *_ in texts)}
        if kind == "xl_base":
            widths["projection_class_embeddings_input_dim"] = texts[-1][0] + 6 * 8
        acts = [act for *_, act in families.TEXTS[family]]
        monkeypatch.setitem(families.UNETS, family, families.UNETS[family] | families.UNET_NARROW[family] | widths)
        monkeypatch.setitem(families.TEXTS, family, [(*sizes, act) for sizes, act in zip(texts, acts, strict=True)])
        monkeypatch.setattr(families, "_vae", partial(_narrow_vae, families._vae))
        monkeypatch.setattr(families, "_text_config", partial(_few_words, families._text_config))
        folder = families.random_model(family, tmp_path / kind)
        for path in folder.rglob("*.safetensors"):
            given = load_file(path)
            save_file({key: 0.05 * torch.randn(given[key].shape) for key in given}, path, {"format": "pt"})
        path = tmp_path / "files" / f"{kind}.safetensors"
        (path.parent / "tokenizer").mkdir(parents=True)
        save_checkpoint(folder, path, kind)
        TextEncoder.load(folder).tokenizer.bpe.model.save(str(path.parent / "tokenizer"))
        return folder, path

    return make


def _narrow_vae(build, family, _, side):
    return build(family, True, side)


def _few_words(build, sizes, tokenizer):
    config = build(sizes, tokenizer)
    config.vocab_size, config.intermediate_size = len(tokenizer), 32
    return config


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_weight_of_each_kind_arrives_where_it_was(kind, whole):
    origin, path = whole(kind)
    folder = resolve_model(str(path))
    assert native_image_size(folder) == KINDS[kind].side
    assert Schedule.of_model(folder, Sampling(steps=2)).config["prediction_type"] == KINDS[kind].prediction
    networks = [part.parent for part in origin.glob("*/*.safetensors")]
    assert len(networks) == (4 if kind == "xl_base" else 3)
    for network in networks:
        made, given = (load_file(*weight_files(place)) for place in (folder / network.name, network))
        assert made.keys() == given.keys()
        assert all(torch.equal(made[key], given[key]) for key in given), network.name
    assert DiffusionPipeline.from_pretrained(folder).unet.config["cross_attention_dim"] > 0


@pytest.mark.parametrize("kind", FAMILIES)
def test_it_draws_what_the_model_draws(kind, whole):
    origin, path = whole(kind)
    drawn = []
    for folder in (origin, resolve_model(str(path))):
        encoder, generator, shapes = TextEncoder.load(folder), load_generator(folder), read_shapes(folder, 64)
        ids = TextEncoder.load(origin).tokenize(["a photograph"])  # what they pad with differs in Stable Diffusion 2
        text = generator.projection(torch.from_numpy(encoder.encode(ids)))
        latents = torch.randn(1, *shapes.latent, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            drawn.append(generator.decoder(generator.unet(latents, torch.tensor([500.0]), text)))
    assert torch.equal(*drawn) and drawn[0].std() > 0


LACKING = {
    "model.diffusion_model.middle_block.0.in_layers.2.weight": ("v1", "mid_block.resnets.0.conv1.weight"),
    "model.diffusion_model.label_emb.0.2.weight": ("xl_base", "label_emb.0.2.weight"),
    "first_stage_model.decoder.mid.attn_1.q.weight": ("v1", "decoder.mid_block.attentions.0.to_q.weight"),
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": ("v1", "final_layer_norm.bias"),
    "cond_stage_model.model.transformer.resblocks.1.attn.in_proj_bias": ("v2", "layers.1.self_attn.k_proj.bias"),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": ("xl_base", "final_layer_norm.bias"),
    "conditioner.embedders.1.model.text_projection": ("xl_base", "text_projection.weight"),
}


@pytest.mark.parametrize("name", LACKING)
def test_one_that_lacks_a_weight_is_refused_and_the_weight_named(name, whole, kept):
    kind, ours = LACKING[name]
    _, path = whole(kind)
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)
    with pytest.raises(BadInputError) as refused:
        resolve_model(str(path))
    assert str(path) in refused.value.message and ours in refused.value.message
    assert not list(kept.glob("[!.]*"))


def test_one_whose_weight_has_another_shape_is_refused(whole, kept):
    _, path = whole("xl_base")
    name = "conditioner.embedders.1.model.ln_final.bias"
    save_file(load_file(path) | {name: torch.zeros(65)}, path)
    with pytest.raises(BadInputError) as refused:
        resolve_model(str(path))
    assert all(word in refused.value.message for word in ("text_encoder_2", "(65,)", "(64,)"))


MORE = {
    "v1": "model.diffusion_model.time_embed.cond_proj.weight",  # a latent consistency model's
    "v2": "model.diffusion_model.label_emb.0.0.weight",  # unCLIP's
    "xl_base": "model.diffusion_model.input_blocks.1.1.norm.weight",
}


@pytest.mark.parametrize("kind", MORE)
def test_one_whose_unet_has_more_than_its_familys_is_refused_and_the_weight_named(kind, whole, kept):
    _, path = whole(kind)
    save_file(load_file(path) | {MORE[kind]: torch.ones(32, 32)}, path)
    with pytest.raises(BadInputError) as refused:
        resolve_model(str(path))
    assert str(path) in refused.value.message and MORE[kind] in refused.value.message
    assert not list(kept.glob("[!.]*"))


@pytest.mark.parametrize(("stored", "read"), [(torch.float8_e4m3fn, torch.float32), (torch.bfloat16, torch.bfloat16)])
def test_weights_stay_in_the_precision_they_were_saved_in_if_that_is_usual(stored, read, whole):
    _, path = whole("v1")
    save_file({name: tensor.to(stored) for name, tensor in load_file(path).items()}, path)
    folder = resolve_model(str(path))
    dtypes = {tensor.dtype for file in folder.glob("*/*.safetensors") for tensor in load_file(file).values()}
    assert dtypes == {read}
    load_generator(folder)


def test_an_xl_that_is_marked_to_predict_velocity_does(whole):
    _, path = whole("xl_base")
    save_file(load_file(path) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    folder = resolve_model(str(path))
    config = Schedule.of_model(folder, Sampling(steps=2)).config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert native_image_size(folder) == 1024


def test_it_is_made_once(checkpoint, kept, monkeypatch):
    first = resolve_model(str(checkpoint))
    monkeypatch.setattr("fglfast.generator.checkpoint._convert", lambda *_: pytest.fail("made again"))
    assert resolve_model(str(checkpoint)) == first


def test_the_scheduler_beside_it_says_how_it_was_trained(checkpoint, kept):
    beside = checkpoint.parent / CONFIG
    beside.parent.mkdir()
    beside.write_text('{"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}')
    folder = resolve_model(str(checkpoint))
    assert Schedule.of_model(folder, Sampling(steps=2)).config["prediction_type"] == "v_prediction"


def test_a_scheduler_beside_it_that_has_a_clock_of_its_own_is_kept(checkpoint):
    (checkpoint.parent / CONFIG).parent.mkdir()
    (checkpoint.parent / CONFIG).write_text('{"_class_name": "EDMEulerScheduler", "sigma_data": 0.25}')
    schedule = Schedule.of_model(resolve_model(str(checkpoint)), Sampling(steps=2))
    assert schedule.scheduler == "EDMEulerScheduler" and schedule.config["sigma_data"] == 0.25


def test_without_its_words_it_is_refused_and_both_places_are_named(checkpoint, kept, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    (checkpoint.parent / "tokenizer" / "merges.txt").unlink()
    with pytest.raises(BadInputError) as refused:
        resolve_model(str(checkpoint))
    told = refused.value.message + refused.value.hint
    assert str(checkpoint.parent / "tokenizer") in told and "openai/clip-vit-large-patch14" in told
    assert "vocab.json" in told and "merges.txt" in told


@pytest.mark.parametrize(("kind", "family"), [("v1", "sd15"), ("v2", "sd21"), ("xl_base", "sdxl")])
def test_each_kinds_configs_are_those_of_its_family(kind, family, tmp_path):
    known = KINDS[kind]
    tokenizer = padded_with(build_tokenizer(["a photograph"], families.TOKENS), known.padding)
    solver = DPMSolverMultistepScheduler(prediction_type=known.prediction)
    networks = families.write_configs(known.family, tmp_path, tokenizer, solver, known.side)
    check_kind(tmp_path)
    assert (family_of(tmp_path), native_image_size(tmp_path)) == (family, known.side)
    read = load_tokenizer(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")) and read.bpe.id_to_token(read.pad) == known.padding
    outline = as_saved({name: network.state_dict() for name, network in networks.items()}, kind)  # of the full size
    for name, network in networks.items():
        assert _whole(_weights(name, network, outline), network, name).keys() == network.state_dict().keys()


PARTS = {
    UNET: (8, 4, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "cond_stage_model.transformer.text_model.x": (1,),
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({UNET: (8, 9, 3, 3)}, "inpainting"),
        ({"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": (1,)}, "xl_refiner"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, "flux"),
        ({"edm_vpred.sigma_max": (1,)}, "edm_vpred.sigma_max"),
        ({"model.diffusion_model.scaled_fp8": (2,)}, "model.diffusion_model.scaled_fp8"),
        ({"cond_stage_model.transformer.text_model.x.scale_weight": (1,)}, "x.scale_weight"),
        ({UNET: None}, "UNet"),
        ({"first_stage_model.decoder.conv_in.weight": None}, "VAE"),
        ({"cond_stage_model.transformer.text_model.x": None}, "text encoder"),
    ],
)
def test_what_is_no_whole_checkpoint_is_refused_by_its_header(change, word, tmp_path, kept):
    shapes = {name: shape for name, shape in (PARTS | change).items() if shape}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(BadInputError) as refused:
        resolve_model(str(tmp_path / "x.safetensors"))
    assert word in refused.value.message and refused.value.exit_code == 4 and not kept.exists()


def test_what_is_no_file_of_tensors_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadInputError, match="not a safetensors file"):
        resolve_model(str(tmp_path / "x.safetensors"))
