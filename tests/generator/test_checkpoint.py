"""Checkpoints in one file: made into model folders of the same weights, or refused by their headers."""

from functools import partial

import huggingface_hub
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from ldm_names import save_checkpoint
from safetensors.torch import load_file, save_file

from fglfast.base.errors import BadInputError
from fglfast.engine.family import family_of
from fglfast.generator import families
from fglfast.generator.architecture import build_tokenizer
from fglfast.generator.checkpoint import KINDS, SCHEDULER, UNET
from fglfast.generator.families import padded_with
from fglfast.generator.kinds import check_kind
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


def test_it_is_made_once(checkpoint, kept, monkeypatch):
    first = resolve_model(str(checkpoint))
    monkeypatch.setattr("fglfast.generator.checkpoint._convert", lambda *_: pytest.fail("made again"))
    assert resolve_model(str(checkpoint)) == first


def test_the_scheduler_beside_it_says_how_it_was_trained(checkpoint, kept):
    beside = checkpoint.parent / SCHEDULER
    beside.parent.mkdir()
    beside.write_text('{"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}')
    folder = resolve_model(str(checkpoint))
    assert Schedule.of_model(folder, Sampling(steps=2)).config["prediction_type"] == "v_prediction"


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
    families.write_configs(known.family, tmp_path, tokenizer, solver, known.side)
    check_kind(tmp_path)
    assert (family_of(tmp_path), native_image_size(tmp_path)) == (family, known.side)
    read = load_tokenizer(tmp_path)
    assert not list(tmp_path.rglob("*.safetensors")) and read.bpe.id_to_token(read.pad) == known.padding


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
