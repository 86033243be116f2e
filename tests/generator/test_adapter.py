"""LoRA adapters: what they add to a UNet, in the forms that people save them in, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fglfast.base.errors import BadInputError
from fglfast.engine.recipe import Recipe
from fglfast.generator.adapter import FILE, with_adapter
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.load import load_modules
from fglfast.generator.text import text_fingerprint

RANK, ALPHA = 2, 1.0


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FGLFAST_MODELS", str(tmp_path / "made"))
    return tmp_path / "made"


@pytest.fixture(scope="module")
def unet(shallow_sd):
    return load_modules(shallow_sd)[0]


@pytest.fixture(scope="module")
def shallow_sd(shallow):
    return shallow("sd15")


def factors(unet):
    """A and B of every layer of the attention blocks: linear ones, and convolutions of one pixel."""
    made, generator = {}, torch.Generator().manual_seed(0)
    for name, layer in unet.named_modules():
        if "attentions" in name and isinstance(layer, nn.Linear | nn.Conv2d):
            rows, *columns = layer.weight.shape
            ones = [1] * (len(columns) - 1)
            made[name] = (
                torch.randn(RANK, *columns, generator=generator),
                torch.randn(rows, RANK, *ones, generator=generator),
            )
    return made


def kohya(unet):
    tensors = {}
    for name, (down, up) in factors(unet).items():
        layer = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        tensors[f"{layer}.alpha"] = torch.tensor(ALPHA if "attn1" in name else 2 * ALPHA)
    return tensors, {}, lambda name: (ALPHA if "attn1" in name else 2 * ALPHA) / RANK


def of_diffusers(unet):
    tensors = {}
    for name, (down, up) in factors(unet).items():
        tensors |= {f"unet.{name}.lora_A.weight": down, f"unet.{name}.lora_B.weight": up}
    return tensors, {}, lambda _: 1.0


def of_diffusers_with_alpha(unet):
    facts = {"lora_adapter_metadata": json.dumps({"unet.r": RANK, "unet.lora_alpha": 8.0})}
    return of_diffusers(unet)[0], facts, lambda _: 8.0 / RANK


def of_old_diffusers(unet):
    tensors = {}
    for name, (down, up) in factors(unet).items():
        layer = f"unet.{name}".replace(".to_out.0", ".to_out")
        old = layer.replace(".to_", ".processor.to_") + "_lora" if "attn" in layer else f"{layer}.lora"
        tensors |= {f"{old}.down.weight": down, f"{old}.up.weight": up}
    return tensors, {}, lambda _: 1.0


@pytest.mark.parametrize("form", [kohya, of_diffusers, of_diffusers_with_alpha, of_old_diffusers])
def test_what_is_added_is_the_product_of_its_factors(form, shallow_sd, unet, tmp_path):
    tensors, facts, scale = form(unet)
    save_file(tensors, tmp_path / "some.safetensors", facts)
    fused = load_modules(with_adapter(shallow_sd, str(tmp_path / "some.safetensors"), 0.5))[0].state_dict()
    expected = {name: value.clone() for name, value in unet.state_dict().items()}
    for name, (down, up) in factors(unet).items():
        change = (up.flatten(1) @ down.flatten(1)).reshape(expected[f"{name}.weight"].shape)
        expected[f"{name}.weight"] += 0.5 * scale(name) * change
    assert fused.keys() == expected.keys()
    assert all(torch.allclose(fused[name], expected[name], atol=1e-5) for name in expected)


def test_a_recipes_adapter_makes_other_weights_and_the_same_text(shallow_sd, unet, tmp_path, kept, monkeypatch):
    tensors = of_diffusers(unet)[0]
    tensors["text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(RANK, 32)
    tensors["text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight"] = torch.ones(32, RANK)
    (tmp_path / "adapter").mkdir()
    save_file(tensors, tmp_path / "adapter" / FILE)
    told = []
    monkeypatch.setattr("fglfast.generator.adapter.note", told.append)
    recipe = Recipe(model=str(shallow_sd), lora=str(tmp_path / "adapter"), image_size=64)
    fused = recipe.model_folder()
    assert fused.parent == kept and recipe.model_folder() == fused and len(list(kept.glob("pytorch*"))) == 1
    assert text_fingerprint(fused) == text_fingerprint(shallow_sd) and any("text encoder" in line for line in told)
    half = recipe.model_copy(update={"lora_weight": 0.5}).model_folder()
    assert len({weights_fingerprint(folder) for folder in (fused, half, shallow_sd)}) == 3
    assert recipe.model_folder("text") == shallow_sd


def test_a_model_of_another_vae_makes_another_folder(shallow_sd, unet, tmp_path):
    save_file(of_diffusers(unet)[0], tmp_path / "some.safetensors")
    other = tmp_path / "other" / shallow_sd.name
    shutil.copytree(shallow_sd, other)
    config = other / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.5"))
    first, second = (with_adapter(model, str(tmp_path / "some.safetensors"), 1.0) for model in (shallow_sd, other))
    assert first != second and load_modules(second)[1].config.scaling_factor == 0.5


def test_one_whose_prompts_or_index_were_edited_is_made_anew(shallow_sd, unet, tmp_path):
    save_file(of_diffusers(unet)[0], tmp_path / "some.safetensors")
    model = shutil.copytree(shallow_sd, tmp_path / "model")
    made = [with_adapter(model, str(tmp_path / "some.safetensors"), 1.0)]
    for name, key in (("prompts.json", "negative"), ("model_index.json", "requires_safety_checker")):
        path = model / name
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | {key: "blurred"}))
        made.append(with_adapter(model, str(tmp_path / "some.safetensors"), 1.0))
        assert (made[-1] / name).read_bytes() == path.read_bytes()
    assert len(set(made)) == 3


LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FITTING = {f"{LAYER}.lora_A.weight": torch.ones(RANK, 32), f"{LAYER}.lora_B.weight": torch.ones(32, RANK)}


@pytest.mark.parametrize(
    ("tensors", "facts", "word"),
    [
        ({f"{LAYER}.lora_A.weight": torch.ones(RANK, 48)}, {}, "attn1.to_q is 32 by 48, and this UNet's is 32 by 32"),
        (
            {f"{LAYER}.lora_A.weight": torch.ones(RANK, 64), f"{LAYER}.lora_B.weight": torch.ones(16, RANK)},
            {},
            "attn1.to_q is 16 by 64",
        ),
        ({f"{LAYER}.lora_B.weight": torch.ones(32, 3)}, {}, "attn1.to_q has factors of ranks 2 and 3"),
        ({f"{LAYER[:-1]}v.lora_A.weight": torch.ones(RANK, 32)}, {}, "without unet.down_blocks.0"),
        ({"lora_unet_mid_block_x.lora_up.weight": torch.ones(32, RANK)}, {}, "without lora_unet_mid_block_x.lora_down"),
        ({f"{LAYER}.lora_A.weight": torch.full((RANK, 32), torch.nan)}, {}, "not a number"),
        ({f"{LAYER}.lora_magnitude_vector": torch.ones(32)}, {}, "lora_magnitude_vector"),
        ({"lora_unet_mid_block.hada_w1_a": torch.ones(2)}, {}, "hada_w"),
        ({"unet.none.lora_A.weight": torch.ones(2, 2), "unet.none.lora_B.weight": torch.ones(2, 2)}, {}, "none"),
        ({"vae.decoder.conv_in.weight": torch.ones(2)}, {}, "conv_in"),
        ({}, {"unet.use_rslora": True, "unet.r": 2}, "use_rslora"),
        (None, {}, "no weight of the UNet"),
    ],
)
def test_what_is_no_adapter_of_this_model_is_refused(tensors, facts, word, shallow_sd, tmp_path, kept):
    text = {"text_encoder.a.lora_A.weight": torch.ones(2, 2)}
    metadata = {"lora_adapter_metadata": json.dumps(facts)} if facts else None
    save_file(text if tensors is None else FITTING | tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(BadInputError) as refused:
        with_adapter(shallow_sd, str(tmp_path / "bad.safetensors"), 1.0)
    assert word in refused.value.message and not list(kept.glob("bad*"))


@pytest.mark.parametrize("name", ["./none", "folder", "some/adapter"])
def test_an_adapter_that_cannot_be_had_is_named(name, shallow_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", _unreachable)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInputError, match=name.strip("./")):
        with_adapter(shallow_sd, name, 1.0)


def _unreachable(*_, **__):
    raise OSError("no network")
