import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from fglfast.verbs.app import app

run = CliRunner().invoke


MISTAKEN = [
    ["verify", "nowhere"],
    ["inspect", "nowhere"],
    ["embed", "nowhere", "--out", "x.safetensors"],
    ["probe", "nowhere"],
    ["adapt", "nowhere", "nowhere", "--out", "x"],
    ["kit", "--out", "x", "--model", "./nowhere"],
    ["build-engine", "--recipe", "nowhere"],
    ["synthesize", "--embeddings", "nowhere", "--out", "x"],
    ["forget", "ann", "--embeddings", "nowhere", "--out", "x"],
    ["train", "nowhere", "--out", "x"],
    ["evaluate", "nowhere", "nowhere"],
    ["tune", "--embeddings", "nowhere", "--validation", "nowhere", "--budget", "9", "--out", "x"],
    ["demo", "--private", "nowhere"],
    ["run", "nowhere"],
    ["report", "nowhere"],
    ["audit", "nowhere"],
    ["pretrain", "--data", "nowhere", "--out", "x"],
    ["inventory", "nowhere", "--out", "x.safetensors"],
    ["distill", "--embeddings", "nowhere", "--out", "x"],
    ["place-steps", "--embeddings", "nowhere", "--out", "x.toml"],
    ["bench", "--recipe", "nowhere"],
]


def test_a_mistake_in_what_is_given_is_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from fglfast.verbs.app import app\n"
        f"for words in [['--help'], *{MISTAKEN!r}]:\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    there = {'torch', 'transformers', 'diffusers'} & set(sys.modules)\n"
        "    print(words[0], result.exit_code, *there)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout.splitlines() == ["--help 0", *(f"{words[0]} 4" for words in MISTAKEN)]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["inspect", "missing.safetensors"], 4, "missing.safetensors"),
        (["embed", "nowhere", "--out", "x.safetensors"], 4, "nowhere"),
        (["embed", "fashion:private", "--out", "x.safetensors", "--model", "./none"], 4, "none"),
        (["build-engine", "--recipe", "nothing"], 4, "nothing"),
        (["build-engine", "--backend", "abacus"], 2, "abacus"),
        (["synthesize", "--embeddings", "no/*.safetensors", "--out", "x"], 4, "no/*.safetensors"),
        (["train", "nowhere", "--out", "x"], 4, "nowhere"),
        (["evaluate", "nowhere", "fashion:test"], 4, "nowhere"),
        (["synthesize"], 2, "embeddings"),
        (["embed", "fashion:test", "--out", "x.safetensors", "--captions", "c.csv"], 2, "--prompt-level"),
        (["embed", "fashion:test", "--out", "x.safetensors", "--domain", ""], 2, "domain"),
        (["embed", "fashion:test", "--out", "x.safetensors", "--delta", "1e-6"], 2, "--epsilon"),
        (["embed", "fashion:test", "--out", "x.safetensors", "--epsilon", "-1"], 2, "--epsilon"),
        (["embed", "fashion:test", "--out", "x.safetensors", "--learn-steps", "3"], 2, "--learn"),
        (["embed", "fashion:test", "--out", "x.safetensors", "--route-steps", "3"], 2, "--route"),
        (["embed", "fashion:test", "--out", "x", "--prompt-level", "instance", "--captions", "c.csv"], 4, "c.csv"),
        (
            ["embed", "fashion:test", "--out", "x", "--prompt-level", "instance", "--captions", "no/model"],
            4,
            "no/model",
        ),
    ],
)
def test_bad_input_gets_one_line_and_the_exit_code(arguments, code, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run(app, arguments)
    assert result.exit_code == code
    assert word in result.output and "Traceback" not in result.output


def test_a_strangers_words_are_shown_as_they_are(random_mini, tmp_path):
    from fglfast.payload import Payload, PayloadHeader, save_payload

    header = PayloadHeader(client="c", class_names=("[red]x", "[/]"), prompt_level="class", text_encoder="0" * 64)
    rows = np.ones((2, 3, 4), np.float16) * np.array([1, 2], np.float16)[:, None, None]
    path = tmp_path / "c.safetensors"
    save_payload(Payload(header, rows, None, np.array([0, 1]), np.array([3, 4])), path)
    shown = run(app, ["inspect", str(path)])
    assert shown.exit_code == 0 and "[red]x 3, [/] 4" in shown.output


@pytest.fixture
def twins(tmp_path):
    """A payload of two classes that send the same prompt."""
    from fglfast.payload import Payload, PayloadHeader, save_payload

    header = PayloadHeader(client="c", class_names=("Fox", "fox"), prompt_level="class", text_encoder="0" * 64)
    rows, path = np.ones((2, 3, 4), np.float16), tmp_path / "c.safetensors"
    save_payload(Payload(header, rows, None, np.array([0, 1]), np.array([3, 4])), path)
    return str(path)


def test_inspect_names_classes_that_send_the_same_prompt(twins):
    assert json.loads(run(app, ["inspect", twins, "--json"]).stdout)["same_prompt"] == [["Fox", "fox"]]
    assert "'Fox', 'fox'" in run(app, ["inspect", twins]).stdout


@pytest.mark.parametrize(
    ("verb", "next_problem"),
    [
        (["synthesize"], "no.toml"),
        (["synthesize", "--dry-run"], "no.toml"),
        (["tune", "--validation", "fashion:test", "--budget", "9"], "differ in classes"),
    ],
)
def test_a_data_set_of_such_classes_is_refused_before_an_engine_is_built(verb, next_problem, twins, tmp_path):
    asked = [*verb, "--embeddings", twins, "--out", str(tmp_path / "out"), "--engines", str(tmp_path / "engines")]
    refused = run(app, asked)
    assert refused.exit_code == 4 and "'Fox', 'fox'" in refused.stderr and "--allow-same-prompt" in refused.stderr
    recipe = ["--recipe", "no.toml"] if verb[0] == "synthesize" else []
    assert next_problem in run(app, [*asked, *recipe, "--allow-same-prompt"]).stderr
    assert not (tmp_path / "engines").exists() and not (tmp_path / "out").exists()


def test_a_demonstration_refuses_them_too(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 255, (90, 8, 8), np.uint8), np.arange(90) % 2
    np.savez(tmp_path / "twins.npz", images=images, labels=labels, class_names=np.array(["Fox", "fox"]))
    refused = run(
        app, ["demo", "--private", str(tmp_path / "twins.npz"), "--beta", "9", "--out", str(tmp_path / "out")]
    )
    assert refused.exit_code == 4 and "'Fox', 'fox'" in refused.stderr and "--allow-same-prompt" in refused.stderr
    assert not (tmp_path / "out" / "engines").exists()


def test_embed_and_inspect(random_mini, tmp_path):
    out = str(tmp_path / "ann.safetensors")
    made = run(app, ["embed", "fashion:private", "--out", out, "--model", str(random_mini), "--json"])
    assert made.exit_code == 0, made.output
    shown = json.loads(run(app, ["inspect", out, "--json"]).stdout)
    assert shown["client"] == "ann" and shown["images_by_class"]["bag"] == 500
    assert shown["bytes"] == json.loads(made.stdout)["bytes"] < 44_700
    assert shown["form"] == "embeddings" and shown["tensor_bytes"]["int8"] < shown["tensor_bytes"]["embeddings"]


def test_inspect_tells_domain_and_form(random_mini, tmp_path):
    out = str(tmp_path / "ann.safetensors")
    asked = ["embed", "fashion:test", "--out", out, "--model", str(random_mini), "--domain", "sketch"]
    sizes = {}
    for form in ("int8", "tokens"):
        sizes[form] = json.loads(run(app, [*asked, "--send", form, "--json"]).stdout)["bytes"]
        shown = json.loads(run(app, ["inspect", out, "--json"]).stdout)
        assert (shown["domain"], shown["form"], shown["bytes"]) == ("sketch", form, sizes[form])
    assert sizes["tokens"] < 2048 < sizes["int8"]


def test_noise_without_the_accountant_names_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    done = run(app, ["embed", "fashion:test", "--out", "x.safetensors", "--epsilon", "1"])
    assert done.exit_code == 3 and "pip install 'fglfast[privacy]'" in done.stderr
