import numpy as np
import pytest
from PIL import Image

from fglfast.client.embed import embed
from fglfast.dataset import read_dataset
from fglfast.text_encoder import TextEncoder


@pytest.fixture
def dataset(tmp_path):
    for name, shades in {"bag": (20, 20, 250), "t-shirt": (250,)}.items():
        (tmp_path / name).mkdir()
        for number, shade in enumerate(shades):
            image = np.zeros((32, 32), np.uint8)
            image[4:28, 4:28] = shade
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
    (tmp_path / "empty").mkdir()
    return read_dataset(str(tmp_path))


def test_class_level_sends_a_row_a_class_that_the_client_has(dataset, random_mini):
    sent = embed(dataset, "ann", random_mini)
    assert sent.labels.tolist() == [0, 2] and sent.counts.tolist() == [3, 1]
    expected = TextEncoder.load(random_mini)
    assert np.allclose(sent.embeddings, expected.encode(expected.tokenize(["bag", "t-shirt"])), atol=5e-3)
    assert sent.header.text_encoder == expected.fingerprint


def test_instance_level_merges_equal_captions(dataset, random_mini):
    sent = embed(dataset, "ann", random_mini, "instance", send="tokens")
    assert sent.embeddings is None and sent.counts.tolist() == [2, 1, 1]
    assert sent.labels.tolist() == [0, 0, 2]
