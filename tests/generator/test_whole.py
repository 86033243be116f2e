"""A model folder whose files lack a weight is refused by their headers; one whose names are older is taken."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fglfast.base.errors import BadInputError
from fglfast.engine.build import build_engine
from fglfast.engine.recipe import Recipe
from fglfast.generator.fingerprints import weights_fingerprint
from fglfast.generator.load import load_generator, read_shapes
from fglfast.generator.text import resolve_model
from fglfast.generator.text_part import load_text_part
from fglfast.generator.weights import weight_files

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
NORM, MATRIX = "mid_block.resnets.0.norm1.weight", "mid_block.attentions.0.proj_in.weight"
TEXT_NORM, TEXT_MATRIX = "encoder.layers.0.layer_norm1.weight", "encoder.layers.1.mlp.fc1.weight"


@pytest.fixture
def copy(shallow, tmp_path):
    return lambda family: shutil.copytree(shallow(family), tmp_path / family)


def rewrite(folder, change):
    """Change the names and tensors of a network's only file of weights."""
    (file,) = weight_files(folder)
    save_file({key: value.contiguous() for key, value in change(load_file(file)).items()}, file, {"format": "pt"})
    return file


def without(lost):
    return lambda tensors: {key: value for key, value in tensors.items() if key.removeprefix("text_model.") != lost}


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("unet", NORM),
        ("unet", MATRIX),
        ("vae", f"decoder.{NORM}"),
        ("vae", "decoder.mid_block.attentions.0.to_q.weight"),
    ],
)
def test_a_network_that_lacks_a_weight_is_refused_before_anything_is_built(part, lost, copy, tmp_path):
    folder = copy("sd15")
    file = rewrite(folder / part, without(lost))
    recipe = Recipe(backend="torch", precision="float32", image_size=64)
    for look in (
        lambda: read_shapes(folder, 64),
        lambda: load_generator(folder),
        lambda: build_engine(recipe, folder, tmp_path / "engines"),
    ):
        with pytest.raises(BadInputError, match=re.escape(f"{file}: incomplete ({lost} missing)")):
            look()
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ("text_encoder", TEXT_NORM),
        ("text_encoder", TEXT_MATRIX),
        ("text_encoder_2", TEXT_NORM),
        ("text_encoder_2", "text_projection.weight"),
    ],
)
def test_a_text_encoder_that_lacks_a_weight_is_refused(part, lost, copy, tmp_path):
    folder = copy("sdxl")
    file = rewrite(folder / part, without(lost))
    with pytest.raises(BadInputError, match=rf"{re.escape(str(file))}: incomplete .*{lost}"):
        load_text_part(folder)
    with pytest.raises(BadInputError, match=lost):
        build_engine(Recipe(backend="torch", precision="float32", image_size=64), folder, tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_a_weight_of_another_shape_is_named_with_its_file(copy):
    folder = copy("sd15")
    file = rewrite(folder / "unet", lambda tensors: tensors | {NORM: torch.ones(3)})
    with pytest.raises(BadInputError, match=rf"{re.escape(str(file))}: {NORM} has the shape \(3,\)"):
        read_shapes(folder, 64)


def older(tensors):
    """The VAE's attention as diffusers named it before 0.15."""
    names = {new: old for new, old in OLD.items()}
    return {re.sub("|".join(map(re.escape, names)), lambda new: names[new[0]], key): tensors[key] for key in tensors}


def other_prefix(tensors):
    """A text encoder's names with the prefix where they have none, or without it, and a buffer that nothing reads."""
    with_it = any(key.startswith("text_model.") for key in tensors)
    named = {key.removeprefix("text_model.") if with_it else f"text_model.{key}": tensors[key] for key in tensors}
    return named | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def test_older_names_and_weights_that_are_not_read_are_taken(copy):
    folder, whole = copy("sdxl"), copy("sd15")
    expected = load_generator(folder)
    assert "decoder.mid_block.attentions.0.query.weight" in older(load_file(*weight_files(folder / "vae")))
    rewrite(folder / "vae", older)
    rewrite(folder / "text_encoder", other_prefix)
    rewrite(folder / "unet", lambda tensors: tensors | {"another.weight": torch.ones(2)})
    read_shapes(folder, 64)
    found = load_generator(folder)
    for name in ("text", "unet", "decoder"):
        one, other = (getattr(generator, name).state_dict() for generator in (expected, found))
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    rewrite(whole / "text_encoder", other_prefix)
    load_text_part(whole)


def test_the_second_text_encoder_may_have_its_prefix_or_not(copy):
    folder = copy("sdxl")
    rewrite(
        folder / "text_encoder_2", lambda tensors: {key.removeprefix("text_model."): tensors[key] for key in tensors}
    )
    load_text_part(folder)


@pytest.mark.parametrize("name", ["unet/rest", "unet/model", "text_encoder/model_old", "vae/diffusion_pytorch_model-2"])
def test_a_file_that_the_libraries_do_not_open_is_not_read_here(name, copy):
    folder = copy("sd15")
    (file,) = weight_files((folder / name).parent)
    before, tensors = weights_fingerprint(folder), load_file(file)
    stray = (folder / name).with_suffix(".safetensors")
    save_file({key: tensor + 1 for key, tensor in tensors.items()}, stray, {"format": "pt"})
    assert weight_files(file.parent) == [file] and weights_fingerprint(folder) == before
    lost = max(tensors)
    save_file({key: tensor for key, tensor in tensors.items() if key != lost}, file, {"format": "pt"})
    with pytest.raises(BadInputError, match=rf"{file.name}: incomplete \({lost} missing"):
        load_generator(folder)
    file.unlink()
    with pytest.raises(BadInputError, match="no safetensors weights"):
        resolve_model(str(folder))


def test_beside_a_whole_file_each_library_treats_an_index_its_own_way(copy):
    folder = copy("sd15")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        index = {
            "metadata": {},
            "weight_map": dict.fromkeys(load_file(*weight_files(folder / part)), "moved.safetensors"),
        }
        shutil.copy(folder / part / f"{stem}.safetensors", folder / part / "moved.safetensors")
        (folder / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    names = [path.name for part in ("unet", "text_encoder") for path in weight_files(folder / part)]
    assert names == ["moved.safetensors", "model.safetensors"]
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    load_generator(folder)


@pytest.mark.parametrize("copies", ["", ".fp16"])
def test_several_files_of_one_network_are_taken_together(copies, copy):
    folder = copy("sd15")
    (file,) = weight_files(folder / "unet")
    tensors = load_file(file)
    file.unlink()
    halves = [dict(list(tensors.items())[number::2]) for number in (0, 1)]
    names = [f"diffusion_pytorch_model{copies}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, folder / "unet" / name, {"format": "pt"})
    weights = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    index = {"metadata": {"total_size": 1}, "weight_map": weights}
    (folder / "unet" / f"diffusion_pytorch_model.safetensors.index{copies}.json").write_text(json.dumps(index))
    load_generator(folder)
    (folder / "unet" / names[1]).unlink()
    with pytest.raises(BadInputError, match=rf"{names[0]}: incomplete .*{next(iter(sorted(halves[1])))}"):
        read_shapes(folder, 64)
