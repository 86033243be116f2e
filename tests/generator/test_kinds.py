"""Models of kinds that cannot be used: refused by a key of their configs, before anything is read, made or fetched."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError
from fglfast.generator.kinds import check_kind, zeros_for_empty
from fglfast.generator.load import read_shapes
from fglfast.generator.text import resolve_model
from fglfast.payload import save_payload
from fglfast.verbs.app import app


@pytest.fixture
def copy(random_mini, tmp_path):
    shutil.copytree(random_mini, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, part: str, **keys) -> None:
    path = folder / part / "config.json" if part else folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


KINDS = [
    ("unet", {"num_class_embeds": 1000}),
    ("unet", {"class_embed_type": "timestep"}),
    ("unet", {"encoder_hid_dim": 64}),
    ("unet", {"encoder_hid_dim_type": "ip_image_proj"}),
    ("unet", {"addition_embed_type": "text_image"}),
    ("unet", {"addition_embed_type": "text_time"}),  # SDXL's UNet in a pipeline of Stable Diffusion
    ("unet", {"in_channels": 9}),
    ("unet", {"out_channels": 16}),
    ("unet", {"cross_attention_dim": 4096}),
    ("unet", {"cross_attention_dim": [64, 64]}),
    ("unet", {"_class_name": "UNet3DConditionModel"}),
    ("vae", {"_class_name": "AsymmetricAutoencoderKL"}),
    ("vae", {"out_channels": 1}),
    ("vae", {"scaling_factor": 0}),
    ("vae", {"scaling_factor": None}),
    ("vae", {"latents_mean": [0.0, 0.0]}),
    ("vae", {"latents_std": [0.0] * 8}),
    ("vae", {"shift_factor": "some"}),
    ("", {"requires_aesthetics_score": True}),
    ("", {"text_encoder": [None, None]}),
    ("text_encoder", {"eos_token_id": [49407]}),
    ("text_encoder", {"use_attention_mask": True}),
    ("text_encoder", {"transformers_weights": "other.safetensors"}),
]
OTHERS = (
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionUpscalePipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "DiTPipeline",
    ["pipeline_own", "OwnPipeline"],
    None,
)


@pytest.mark.parametrize(("part", "keys"), [*KINDS, *(("", {"_class_name": name}) for name in OTHERS)])
def test_other_kinds_are_refused_by_the_key_that_tells_them(part, keys, copy):
    change(copy, part, **keys)
    for look in (check_kind, lambda folder: resolve_model(str(folder)), lambda folder: read_shapes(folder, 32)):
        with pytest.raises(BadInputError) as refused:
            look(copy)
        assert next(iter(keys)) in refused.value.message and refused.value.exit_code == 4
        assert (part or "model_index") in refused.value.message


def test_every_network_that_shares_time_is_looked_at(copy):
    shutil.copytree(copy / "unet", copy / "block_2" / "unet")
    shutil.copy(copy / "model_index.json", copy / "block_2")
    (copy / "blocks.json").write_text('{"boundaries": [400.0]}')
    resolve_model(str(copy))
    change(copy, "block_2/unet", num_class_embeds=10)
    with pytest.raises(BadInputError, match=r"block_2.*num_class_embeds"):
        resolve_model(str(copy))


@pytest.mark.parametrize("family", ["sd15", "sd21-base", "sdxl"])
def test_the_families_that_can_be_used_are(family, shallow):
    assert resolve_model(str(shallow(family))) == shallow(family)


@pytest.mark.parametrize(
    ("part", "keys"),
    [
        ("unet", {"addition_time_embed_dim": None}),
        ("unet", {"projection_class_embeddings_input_dim": None}),
        ("unet", {"projection_class_embeddings_input_dim": 96}),  # 32 + 6 * 8 is what fits
        ("unet", {"addition_time_embed_dim": 16}),
        ("text_encoder_2", {"projection_dim": 64}),
        ("text_encoder_2", {"eos_token_id": [49407]}),
    ],
)
def test_an_xl_whose_pooled_text_does_not_fit_is_refused(part, keys, shallow, tmp_path):
    folder = shutil.copytree(shallow("sdxl"), tmp_path / "model")
    change(folder, part, **keys)
    for look in (check_kind, lambda folder: resolve_model(str(folder)), lambda folder: read_shapes(folder, 64)):
        with pytest.raises(BadInputError, match=next(iter(keys))) as refused:
            look(folder)
        assert refused.value.exit_code == 4 and part in refused.value.message


def test_an_xls_empty_prompt_is_zeros_unless_its_index_says_no(shallow, copy, tmp_path):
    folder = shutil.copytree(shallow("sdxl"), tmp_path / "xl")
    index = json.loads((folder / "model_index.json").read_text())
    del index["force_zeros_for_empty_prompt"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert zeros_for_empty(folder)
    for said in (True, False, None):
        change(folder, "", force_zeros_for_empty_prompt=said)
        assert zeros_for_empty(folder) == bool(said)
    change(copy, "", force_zeros_for_empty_prompt=True)  # which no other pipeline reads
    assert not zeros_for_empty(copy)


def test_a_refiner_has_no_first_text_encoder(shallow, tmp_path):
    refiner = tmp_path / "refiner"
    shutil.copytree(shallow("sdxl"), refiner)
    shutil.rmtree(refiner / "text_encoder")
    change(refiner, "", text_encoder=[None, None])
    with pytest.raises(BadInputError, match="text_encoder is"):
        resolve_model(str(refiner))
    shutil.copytree(shallow("sdxl") / "text_encoder", refiner / "text_encoder")
    change(refiner, "", text_encoder=["transformers", "CLIPTextModel"])
    next((refiner / "text_encoder_2").glob("*.safetensors")).unlink()
    with pytest.raises(BadInputError, match="text_encoder_2"):
        resolve_model(str(refiner))


@pytest.fixture
def arguments(copy, payload, tmp_path):
    """Command lines that open a model folder."""
    save_payload(payload("ann", (1, 1, 1)), tmp_path / "ann.safetensors")
    rows = ["--embeddings", str(tmp_path / "ann.safetensors")]
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'model = "{copy}"\nbackend = "torch"\nimage_size = 32\n')
    own = ["--recipe", str(recipe), "--engines", str(tmp_path / "engines")]
    out = ["--out", str(tmp_path / "out")]
    return {
        "build-engine": own,
        "bench": [*own, *out],
        "embed": ["fashion:private", "--model", str(copy), "--out", str(tmp_path / "bob.safetensors")],
        "probe": ["fashion:private", *own],
        "synthesize": [*rows, *own, *out],
        "distill": [*rows, *own, "--teacher", str(copy), *out],
        "place-steps": [*rows, *own, *out],
    }


@pytest.mark.parametrize("verb", ["build-engine", "bench", "embed", "probe", "synthesize", "distill", "place-steps"])
def test_each_verb_that_opens_a_model_ends_at_once_with_status_4(verb, arguments, copy, tmp_path):
    change(copy, "unet", class_embed_type="timestep")
    ended = CliRunner().invoke(app, [verb, *arguments[verb]])
    assert ended.exit_code == 4, ended.output
    assert "class_embed_type" in ended.output.replace("\n", "") and not list(tmp_path.glob("engines/*"))
