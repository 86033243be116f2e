import numpy as np
import pytest
from PIL import Image

from fglfast.base.errors import UsageError
from fglfast.client.embed import embed
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset


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


def test_eight_bits_are_close_and_say_what_they_are(dataset, random_mini):
    exact, sent = embed(dataset, "ann", random_mini), embed(dataset, "ann", random_mini, send="int8")
    one, other = exact.embeddings.astype(np.float64), sent.embeddings.astype(np.float64)
    assert sent.int8 and sent.form == "int8" and np.linalg.norm(one - other) < 0.01 * np.linalg.norm(one)


def test_the_domain_is_in_every_prompt_and_in_the_header(dataset, random_mini, tmp_path):
    (tmp_path / "captions.csv").write_text(
        "file_name,caption\nbag/0.png,A\nbag/1.png,b\nbag/2.png,a.\nt-shirt/0.png,c\n"
    )
    for level, prompts in (
        ("class", ["bag, {sketch}", "t-shirt, {sketch}"]),
        ("instance", ["bag, {sketch}, A", "bag, {sketch}, b", "t-shirt, {sketch}, c"]),
    ):
        captions = str(tmp_path / "captions.csv")
        sent = embed(dataset, "ann", random_mini, level, "tokens", captions=captions, domain="{sketch}")
        assert sent.header.domain == "{sketch}"
        assert np.array_equal(sent.token_ids, TextEncoder.load(random_mini).tokenize(prompts))


def test_prompts_that_differ_only_in_what_is_cut_off_are_one_row(dataset, random_mini):
    template = "{label} " + "wide " * 40 + "{caption}"
    sent = embed(dataset, "ann", random_mini, "instance", template=template)
    assert sent.counts.tolist() == [3, 1]


def test_a_name_that_a_payload_cannot_carry_is_a_usage_error(dataset, random_mini):
    with pytest.raises(UsageError, match="domain"):
        embed(dataset, "ann", random_mini, domain=" ")


def test_instance_level_merges_equal_captions(dataset, random_mini):
    sent = embed(dataset, "ann", random_mini, "instance", send="tokens")
    assert sent.embeddings is None and sent.counts.tolist() == [2, 1, 1]
    assert sent.labels.tolist() == [0, 0, 2]
