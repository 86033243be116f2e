from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fglfast.base.errors import UsageError
from fglfast.client.embed import class_list, embed
from fglfast.client.privacy import Budget
from fglfast.generator.text_encoder import TextEncoder
from fglfast.images.dataset import read_dataset
from fglfast.payload.merge import merge_payloads, same_prompts


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


@pytest.mark.parametrize("template", ["", " ", "{label} \udcff"])
@pytest.mark.parametrize("level", ["class", "instance"])
def test_a_template_that_says_nothing_or_is_no_text_is_refused_at_once(dataset, random_mini, level, template):
    with pytest.raises(UsageError) as refused:
        embed(replace(dataset, openers=()), "ann", random_mini, level, template=template)
    assert f"--template {template!r}" in refused.value.message and refused.value.hint


@pytest.mark.parametrize("template", ["{label} " + "wide " * 40, "{label}\x01"])
def test_a_template_that_a_header_cannot_carry_is_refused_before_the_payload_is_written(dataset, random_mini, template):
    with pytest.raises(UsageError, match="template"):
        embed(dataset, "ann", random_mini, template=template)


def test_instance_level_merges_equal_captions(dataset, random_mini):
    sent = embed(dataset, "ann", random_mini, "instance", send="tokens")
    assert sent.embeddings is None and sent.counts.tolist() == [2, 1, 1]
    assert sent.labels.tolist() == [0, 0, 2]


@pytest.fixture
def alike(tmp_path):
    """Class names that are one to the text encoder: by case, and by what 16 tokens leave of them."""
    names = (
        "den",
        "fox",
        "Fox",
        "wide wide wide wide wide wide wide wide wide wide bag",
        *(f"{LONG} {k}" for k in "ab"),
    )
    for name in names:
        (tmp_path / "alike" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((32, 32), 60 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "alike" / name / f"{number}.png")
    return read_dataset(str(tmp_path / "alike"))


LONG = "dark plain wide square bag t-shirt ankle boot dark plain wide square bag t-shirt ankle boot"


@pytest.mark.parametrize("send", ["embeddings", "int8", "tokens"])
def test_classes_that_become_one_prompt_are_named_with_the_cause(send, alike, random_mini, capsys):
    sent = embed(alike, "ann", random_mini, send=send)
    said = " ".join(capsys.readouterr().err.split())
    assert len(same_prompts(merge_payloads([sent]))) == 2, "equal prompts are equal to the last bit"
    assert "4 classes send the same prompt as another" in said
    assert "'Fox', 'fox' (which differ in case only)" in said and f"'{LONG} b' (the rest is cut off)" in said
    assert "2 class names are cut off" in said and f"'{LONG} a' is sent as 'dark plain wide" in said


def test_captions_that_vanish_are_counted(alike, random_mini, tmp_path, capsys):
    rows = [f"{name},{name.replace('/', ' ')} word{number}" for number, name in enumerate(alike.names)]
    (tmp_path / "c.csv").write_text("\n".join(["file_name,caption", *rows]))
    sent = embed(alike, "ann", random_mini, "instance", captions=str(tmp_path / "c.csv"), template="{label}, {caption}")
    said = " ".join(capsys.readouterr().err.split())
    assert "of 6 of 18 images no word of the caption is left" in said
    assert f"18 different prompts became {len(sent.labels)} rows" in said and f"{len(sent.labels)} prompts: " in said
    assert len(sent.labels) < 18 and f"{len(sent.labels)} prompts for 18 images" in sent.reveals


def test_a_template_without_captions_says_that_none_is_left(dataset, random_mini, capsys):
    embed(dataset, "ann", random_mini, "instance", template="{label}")
    assert "of 4 of 4 images no word of the caption is left" in " ".join(capsys.readouterr().err.split())


def test_what_fits_is_not_said_to_be_cut(dataset, random_mini, capsys):
    for level in ("class", "instance"):
        embed(dataset, "ann", random_mini, level)
    said = capsys.readouterr().err
    assert "2 prompts: " in said and "cut" not in said and "no word" not in said and "same prompt" not in said


@pytest.mark.parametrize(("names", "said"), [(("0", "1", "2"), True), (("0", "bag", "2"), False)])
def test_numbers_for_names_are_said(dataset, random_mini, capsys, names, said):
    embed(replace(dataset, class_names=names), "ann", random_mini, send="tokens")
    assert ("numbers for names (0, 1, 2)" in " ".join(capsys.readouterr().err.split())) is said


def test_with_noise_the_public_prompts_are_what_may_coincide(alike, random_mini, capsys):
    embed(alike, "ann", random_mini, "instance", budget=Budget(epsilon=3))
    assert "'Fox', 'fox'" in capsys.readouterr().err


def test_a_form_that_there_is_not_is_refused(random_mini):
    with pytest.raises(UsageError, match="'token'"):
        embed(class_list(("bag",)), "ann", random_mini, send="token")
