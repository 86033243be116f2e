import shutil

import pytest


@pytest.fixture
def engines(engine, tmp_path):
    """An engines folder that holds the model's ONNX export already, which takes ten seconds."""
    for export in engine.folder.parent.glob("onnx-*"):
        shutil.copytree(export, tmp_path / export.name)
    return tmp_path
