"""The thin client: what `pip install fglfast` alone can do, on any system."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import thin
from PIL import Image

from fglfast.base.errors import MissingExtraError
from fglfast.base.extras import EXTRAS, needing

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {"pillow": "PIL", "pot": "ot", "dp-accounting": "dp_accounting", "onnxruntime-gpu": "onnxruntime"}
HEAVY = tuple(
    f"fglfast.client.{name}" for name in ("caption_model", "learn", "private_route", "route")
)  # the client's that compute


def modules(requirements):
    """The modules that the requirements of pyproject.toml bring; an extra that contains another brings its own."""
    names = [re.match(r"[\w-]+", line)[0] for line in requirements]
    return {MODULES.get(name, name) for name in names if name != "fglfast"}


def test_each_extra_is_named_for_what_it_brings():
    first = {}
    for extra in EXTRAS:
        for module in modules(PROJECT["optional-dependencies"][extra]):
            first.setdefault(module, extra)
    assert first == {module: extra for extra, names in EXTRAS.items() for module in names}
    assert "fglfast[embed]" in PROJECT["optional-dependencies"]["server"]


def test_whatever_the_package_imports_is_of_its_core_or_of_an_extra():
    known = modules(PROJECT["dependencies"]) | {module for names in EXTRAS.values() for module in names}
    brought = {"annotated_types"}  # pydantic's
    brought |= {"datasets", "mlflow", "wandb"}  # what saved data sets and --track ask for by name
    for path in (ROOT / "fglfast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            tops = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"fglfast"}
            assert tops <= known | brought, (path, tops - known - brought)


def test_a_missing_module_is_named_with_the_extra_that_brings_it():
    for module, extra, hint in (
        ("torch.nn", "embed", "embed"),
        ("torch", "server", "server"),
        ("flwr", "server", "fed"),
    ):
        with pytest.raises(MissingExtraError) as missing, needing(extra, "this"):
            raise ModuleNotFoundError("no", name=module)
        assert missing.value.exit_code == 3 and missing.value.hint == f"pip install 'fglfast[{hint}]'"
    with pytest.raises(ModuleNotFoundError), needing("server", "this"):
        raise ModuleNotFoundError("no", name="fglfast.nothing")


def test_the_clients_modules_need_neither_a_server_nor_posix(tmp_path):
    code = f"""
import importlib, pkgutil
import fglfast.base, fglfast.client, fglfast.images, fglfast.payload
for room in (fglfast.base, fglfast.client, fglfast.images, fglfast.payload):
    for found in pkgutil.iter_modules(room.__path__, room.__name__ + "."):
        if found.name not in {HEAVY}:
            importlib.import_module(found.name)
            print(found.name)
"""
    assert len(thin.run(code, tmp_path).split()) > 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Class folders of a few pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for name, count in {"bag": 2, "ankle boot": 1}.items():
        (folder / name).mkdir()
        for number in range(count):
            Image.fromarray(np.full((32, 32), 90 * number, np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_a_thin_client_does_all_that_tokens_need_and_names_what_the_rest_needs(photos, tmp_path, mini_kit):
    tokens = ["--send", "tokens", "--kit", str(mini_kit), "--client", "ann"]
    (tmp_path / "c.csv").write_text("file_name,caption\nbag/0.png,dark\nbag/1.png,light\nankle boot/0.png,tall\n")
    instance = ["--prompt-level", "instance"]
    steps = [
        (["--help"], 0, ""),
        (["embed", str(photos), "--out", "kit.safetensors", *tokens], 0, ""),
        (["embed", str(photos), "--out", "mini.safetensors", "--send", "tokens", "--client", "ann"], 0, ""),
        (["embed", str(photos), "--out", "i.safetensors", *tokens, *instance, "--captions", "c.csv"], 0, ""),
        (["inspect", "kit.safetensors", "--json"], 0, ""),
        (["key", "ann.pem"], 0, ""),
        (
            ["embed", str(photos), "--out", "signed.safetensors", *tokens, "--sign", "ann.pem", "--federation", "h"],
            0,
            "",
        ),
        (["embed", str(photos), "--out", "e.safetensors", "--client", "ann"], 0, ""),
        (["embed", str(photos), "--out", "i8.safetensors", "--send", "int8", "--client", "ann"], 0, ""),
        (["embed", str(photos), "--out", "x.safetensors", *tokens, *instance], 3, "pip install 'fglfast[embed]'"),
        (["embed", str(photos), "--out", "x.safetensors", "--learn"], 3, "pip install 'fglfast["),
        (["embed", str(photos), "--out", "x.safetensors", "--kit", str(mini_kit)], 2, "--send tokens"),
        (["synthesize", "--embeddings", "kit.safetensors", "--out", "s"], 3, "pip install 'fglfast[server]'"),
        (["evaluate", str(photos), str(photos)], 3, "pip install 'fglfast[server]'"),
        (["adapt", str(photos), str(photos), "--out", "fitted"], 3, "pip install 'fglfast[embed]'"),
    ]
    said = thin.verbs([words for words, _, _ in steps], tmp_path)
    for (words, code, hint), (found, _, error) in zip(steps, said, strict=True):
        assert found == code and hint in error and "Traceback" not in error, (words, found, error)
    shown = json.loads(said[4][1])
    assert shown["form"] == "tokens" and shown["images_by_class"] == {"ankle boot": 1, "bag": 2}
    assert (tmp_path / "kit.safetensors").read_bytes() == (tmp_path / "mini.safetensors").read_bytes()


def test_a_client_that_sends_embeddings_needs_no_server_nor_does_a_test_of_a_model(photos, random_mini, tmp_path):
    embed = ["embed", str(photos), "--out", "a.safetensors", "--model", str(random_mini)]
    instance = [*embed, "--prompt-level", "instance"]
    for code, _, error in thin.verbs([embed, instance, ["evaluate", "nowhere", str(photos)]], tmp_path, thin.SERVER):
        assert code == (4 if "nowhere" in error else 0), error
    thin.run("import fglfast.training.evaluate", tmp_path, thin.SERVER)


def test_a_client_fits_a_model_without_a_servers_packages(photos, tiny_arch, tmp_path):
    from fglfast.images.dataset import read_dataset
    from fglfast.training.model import build_model, save_model
    from fglfast.training.prototypes import empty_prototypes, save_prototypes

    model = build_model(tiny_arch, read_dataset(str(photos)).class_names)
    save_prototypes(empty_prototypes(model), tmp_path / "model")
    save_model(model, tmp_path / "model", 16)
    command = ["adapt", "model", str(photos), "--out", "fitted", "--shots", "1", "--json"]
    [(code, shown, error)] = thin.verbs([command], tmp_path, thin.SERVER)
    assert code == 0 and json.loads(shown)["classes"] == 2, error
    assert (tmp_path / "fitted" / "model.safetensors").exists()
