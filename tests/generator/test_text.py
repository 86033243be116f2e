import json
import shutil

import pytest

from fglfast.base.errors import BadInputError, MissingExtraError
from fglfast.generator import parts
from fglfast.generator.text import (
    load_prompts,
    native_image_size,
    resolve_model,
    resolve_text,
    text_fingerprint,
    with_domain,
)


def test_the_default_prompts_are_the_papers(tmp_path):
    found = load_prompts(tmp_path)
    assert found.class_level.format(label="dog") == "dog, real world images, high resolution"
    assert found.instance_level.format(label="dog", caption="a dog") == (
        "dog, a dog, real world images, high resolution."
    )
    assert found.negative == "low quality, low resolution"


def test_a_domain_takes_the_place_of_real_world_images(tmp_path):
    found = load_prompts(tmp_path, "sketch")
    assert found.class_level.format(label="dog") == "dog, sketch, high resolution"
    assert found.negative == "low quality, low resolution"


def test_a_model_folder_may_word_each_domain(tmp_path):
    own = {"class_level": "black and white sketch of {label}", "negative": "colours"}
    facts = {"class_level": "{label}", "negative": "", "domains": {"sketch": own, "real": {"negative": ""}}}
    (tmp_path / "prompts.json").write_text(json.dumps(facts))
    assert load_prompts(tmp_path, "sketch").class_level == "black and white sketch of {label}"
    assert [load_prompts(tmp_path, domain).negative for domain in ("sketch", "real", "clipart", None)] == [
        "colours",
        "",
        "",
        "",
    ]
    assert load_prompts(tmp_path, "clipart").class_level == "{label}, clipart"
    assert load_prompts(tmp_path, None).class_level == "{label}"


def test_an_unknown_key_of_a_domain_is_refused(tmp_path):
    (tmp_path / "prompts.json").write_text('{"domains": {"sketch": {"positive": "x"}}}')
    with pytest.raises(BadInputError, match=r"domains\.sketch\.positive"):
        load_prompts(tmp_path)


@pytest.mark.parametrize("name", ["./none", "a/b/c", "no where", "C:\\models\\sd", "x" * 99, "../up/none"])
@pytest.mark.parametrize("mirror", [None, "/not/here"])
def test_a_path_that_does_not_exist_is_called_that(name, mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError) as refused:
        resolve_model(name, mirror=mirror)
    assert name in refused.value.message and "no such folder" in refused.value.message
    assert "repo" not in refused.value.message.lower() and (mirror or "") in refused.value.message


def test_what_may_be_of_the_hub_is_said_to_be_no_folder_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInputError, match=r"models/none \(no such folder"):
        resolve_model("models/none")


def test_a_bundled_model_without_its_weights_is_a_clients_and_names_the_package_that_has_them(tmp_path, monkeypatch):
    shutil.copytree(parts.ASSETS, tmp_path / "assets")
    for weights in (tmp_path / "assets").rglob("diffusion_pytorch_model.safetensors"):
        weights.unlink()
    monkeypatch.setattr(parts, "ASSETS", tmp_path / "assets")
    for name in parts.BUNDLED:
        assert text_fingerprint(resolve_text(name)) and resolve_model(name, need="configs")
        with pytest.raises(MissingExtraError) as missing:
            resolve_model(name)
        assert "./engines/mini" in missing.value.hint


def test_the_mirror_may_be_a_folder(random_mini):
    assert resolve_model("./none", mirror=str(random_mini)) == random_mini


@pytest.mark.parametrize(
    ("version", "side", "size"),
    [("0.3.0", 32, 512), ("0.8.1", 96, 768), ("0.9.0.dev0", 32, 256), ("0.9.0", 32, 256), (None, 32, 256)],
)
def test_old_configs_that_say_half_the_side_are_read_as_diffusers_does(version, side, size, shallow, tmp_path):
    folder = shutil.copytree(shallow("sd15"), tmp_path / "model")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": side, "_diffusers_version": version}))
    assert native_image_size(folder) == size
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"_class_name": "LatentConsistencyModelPipeline"}))
    assert native_image_size(folder) == 8 * side


def test_prompts_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "prompts.json").write_bytes(b'\xef\xbb\xbf{"negative": "x"}')
    assert load_prompts(tmp_path).negative == "x"


def test_a_domain_is_a_word_and_no_template():
    assert with_domain("{caption}", "sketch") == "{caption}, sketch", "of a generator that learned no class"
    assert with_domain("a {domain} of {label}", "{label}").format(label="dog") == "a {label} of dog"
