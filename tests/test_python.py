"""What `import fglfast` offers."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fglfast
from fglfast.base.errors import BadInputError

ROOT = Path(__file__).parent.parent
FEWER = {
    "images_per_class, epochs = 100, 5": "images_per_class, epochs = 16, 1",
    'arch="resnet18-narrow", image_size=64': 'arch="resnet10-tiny", image_size=28',
    'find_recipe("mini-few")': 'find_recipe("mini-few").model_copy(update={"backend": "torch"})',
}
PUBLIC = [
    "Engine",
    "Evaluation",
    "FglError",
    "LabelledImages",
    "OneShot",
    "Payload",
    "Recipe",
    "Shot",
    "SynthesisResult",
    "SynthesisSettings",
    "TrainResult",
    "TrainSettings",
    "__version__",
    "build_engine",
    "embed",
    "evaluate",
    "find_recipe",
    "load_payload",
    "merge_payloads",
    "read_dataset",
    "run_one_shot",
    "save_payload",
    "synthesize",
    "train",
]


def test_the_public_names_are_these_and_each_is_there_and_documented():
    assert sorted(fglfast.__all__) == sorted(PUBLIC) == sorted(dir(fglfast))
    assert all(getattr(fglfast, name).__doc__ for name in PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="draw_everything"):
        fglfast.draw_everything  # noqa: B018


def test_import_alone_loads_no_library():
    loaded = "import sys, fglfast; print(*{'torch', 'numpy', 'pydantic', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_one_call_runs_the_server(tmp_path, tiny_recipe, tiny_arch, payload):
    """Engine, images and classifier; a second call finds all of it."""
    training = fglfast.TrainSettings(arch=tiny_arch, image_size=16, epochs=1, batch_size=8)
    asked = fglfast.OneShot(recipe=tiny_recipe, images_per_class=8, train=training)
    sent = [payload("ann", (3, 0, 1)), payload("bob", (1, 5, 0))]
    first, second = (fglfast.run_one_shot(sent, tmp_path / "run", asked, engines=tmp_path / "e") for _ in range(2))
    assert first.made.images == second.made.found == 24 and not second.made.images
    assert second.trained.already_done and (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_paths_may_be_text(tmp_path, tiny_recipe, tiny_arch, payload, monkeypatch):
    """Engine, images and classifier in one call, and each by its own."""
    monkeypatch.chdir(tmp_path)
    fglfast.save_payload(payload("ann", (3, 0, 1)), "ann.safetensors")
    training = fglfast.TrainSettings(arch=tiny_arch, image_size=16, epochs=1, batch_size=8)
    asked = fglfast.OneShot(recipe=tiny_recipe, images_per_class=8, train=training)
    sent = [fglfast.load_payload("ann.safetensors")]
    made = fglfast.run_one_shot(sent, "run", asked, engines="e").made
    recipe = fglfast.find_recipe(tiny_recipe)
    engine, merged = fglfast.build_engine(recipe, str(recipe.model_folder()), "e"), fglfast.merge_payloads(sent)
    again = fglfast.SynthesisSettings(images_per_class=8, sampling=recipe.sampling)
    assert fglfast.synthesize(engine, merged, again, "run/synthetic").found == made.images
    assert fglfast.train("run/synthetic", "model", training).model == tmp_path / "model"
    images = fglfast.read_dataset(_folder_of_images(tmp_path / "own", merged.class_names))
    assert fglfast.evaluate("model", images).n == 3
    assert fglfast.embed(images, "ann", str(recipe.model_folder())).header.client == "ann"


def _folder_of_images(folder, class_names):
    for name in class_names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "1.png")
    return folder


def test_one_call_refuses_classes_that_send_the_same_prompt(tmp_path, payload):
    one = payload("ann", (3, 2, 1))
    same = replace(one, embeddings=one.embeddings[[0, 0, 0]])
    with pytest.raises(BadInputError, match="same prompt"):
        fglfast.run_one_shot([same], tmp_path / "run")


@pytest.mark.timeout(900)
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    """Its cells one after the other, with fewer images."""
    notebook = json.loads((ROOT / "docs" / "fglfast.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}
    for many, few in FEWER.items():
        cells = [cell.replace(many, few) for cell in cells]
    for cell in cells:
        exec(compile(cell, "cell", "exec"), seen)
    assert "160 images, accuracy" in capsys.readouterr().out
    sheet = seen["side_by_side"](seen["engine"].draw(["bag"], 2, seen["recipe"].sampling))
    assert sheet.size == (640, 64) and len(set(sheet.getdata())) > 10
