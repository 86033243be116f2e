"""Class-level rows are what their labels say, in every form, or are refused by the client's name."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.base.errors import BadInputError, ExitCode
from fglfast.client.embed import class_list, embed
from fglfast.client.privacy import Budget
from fglfast.payload import Privacy, load_payload, save_payload
from fglfast.synthesis.class_rows import ClassRows
from fglfast.verbs.app import app

CLASSES = ("t-shirt", "bag", "ankle boot")


@pytest.fixture(scope="module")
def made(random_mini):
    return lambda **options: embed(class_list(CLASSES), "eve", random_mini, **options)


@pytest.fixture(scope="module")
def rows(random_mini):
    return ClassRows(random_mini)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"send": "int8"},
        {"send": "tokens"},
        {"domain": "sketch"},
        {"template": "a photograph of a {label}"},
        {"template": "a {label}", "domain": "{sketch}"},
        {"budget": Budget(epsilon=2.0)},
    ],
)
def test_what_a_client_makes_is_proved_from_its_file(options, made, rows, tmp_path):
    save_payload(made(**options), tmp_path / "eve.safetensors")
    assert rows.check(load_payload(tmp_path / "eve.safetensors")).header.client == "eve"


@pytest.mark.parametrize("send", ["embeddings", "int8", "tokens"])
def test_flipped_labels_and_junk_are_refused_by_name(send, made, rows):
    honest = made(send=send)
    flipped = replace(honest, labels=honest.labels[::-1].copy())
    for hostile in (flipped, _scaled(honest)):
        with pytest.raises(BadInputError, match=r"client 'eve': its row for class '.*' is not the encoding"):
            rows.check(hostile)


def _scaled(honest):
    if honest.embeddings is None:
        return replace(honest, token_ids=honest.token_ids + 1)
    return replace(honest, embeddings=(honest.embeddings * 1.1).astype(np.float16))


def test_what_another_machine_rounds_differently_is_still_proved(made, rows):
    honest = made()
    steps = np.nextafter(honest.embeddings, np.float16(np.inf), dtype=np.float16)
    rows.check(replace(honest, embeddings=steps))


def test_a_class_has_one_row(made, rows):
    honest = made()
    twice = [np.concatenate([part, part]) for part in (honest.embeddings, honest.labels, honest.counts)]
    twice[0][3:] *= np.float16(1.0005)
    with pytest.raises(BadInputError, match="several class-level rows of one class"):
        rows.check(replace(honest, embeddings=twice[0], labels=twice[1], counts=twice[2]))


def test_noise_that_would_hide_a_lie_is_refused_and_other_levels_are_not_proved(made, rows):
    noise = Privacy(mechanism="gaussian", epsilon=1.0, delta=1e-5, clip=1.0, noise=0.1)
    honest = made()
    with pytest.raises(BadInputError, match="nobody can prove"):
        rows.check(replace(honest, header=honest.header.model_copy(update={"privacy": noise})))
    junk = _scaled(honest)
    assert rows.check(replace(junk, header=junk.header.model_copy(update={"prompt_level": "learned"})))


def test_a_template_is_declared_said_and_may_have_to_be_one_that_the_server_names(made, rows, random_mini, capsys):
    own = made(template="no {label}")
    assert own.header.template == "no {label}"
    rows.check(own)
    assert "'no {label}'" in capsys.readouterr().err
    with pytest.raises(BadInputError, match="a template of its own"):
        ClassRows(random_mini, ()).check(own)
    ClassRows(random_mini, ("no {label}",)).check(own)
    silent = replace(own, header=own.header.model_copy(update={"template": None}))
    with pytest.raises(BadInputError, match="is not the encoding"):
        rows.check(silent)
    with pytest.raises(BadInputError, match="client 'eve'"):
        rows.check(replace(own, header=own.header.model_copy(update={"template": "{label:>9999}"})))


def test_a_domain_is_in_every_prompt_so_it_is_said_or_has_to_be_known(made, random_mini, capsys):
    own = made(domain="sandal sandal")
    anybody = ClassRows(random_mini)
    anybody.check(own)
    anybody.check(made(domain="sandal sandal"))
    assert capsys.readouterr().err.count("'sandal sandal'") == 1
    with pytest.raises(BadInputError, match=r"client 'eve': its images are of a domain .* 'sandal sandal'"):
        ClassRows(random_mini, (), ()).check(own)
    ClassRows(random_mini, (), ("sandal sandal",)).check(own)


def test_the_models_own_domains_are_known(made, random_mini, tmp_path, capsys):
    model = shutil.copytree(random_mini, tmp_path / "model")
    prompts = {"class_level": "{label}", "domains": {"sketch": {"class_level": "{label}, {domain}"}}}
    (model / "prompts.json").write_text(json.dumps(prompts))
    sent = embed(class_list(CLASSES), "eve", model, domain="sketch")
    assert ClassRows(model, (), ()).check(sent) and not capsys.readouterr().err.count("sketch'")


def test_synthesize_refuses_a_flipped_label(made, tmp_path, tiny_recipe):
    honest = made()
    save_payload(replace(honest, labels=honest.labels[::-1].copy()), tmp_path / "eve.safetensors")
    command = ["synthesize", "--recipe", tiny_recipe, "--embeddings", str(tmp_path / "*.safetensors")]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), "--engines", str(tmp_path / "engines")])
    assert done.exit_code == ExitCode.BAD_INPUT and "'eve'" in done.output and "not the encoding" in done.output
    assert not (tmp_path / "engines").exists(), "refused before anything is compiled"
