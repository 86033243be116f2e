"""README and guides: every command parses, every setting is accepted, every link leads somewhere."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from fglfast.base.errors import ExitCode
from fglfast.engine.recipe import Recipe
from fglfast.federation.experiment import Experiment
from fglfast.generator.text import Prompts
from fglfast.payload import AllowList
from fglfast.sampler.schedule import Sampling
from fglfast.training.settings import TrainSettings
from fglfast.verbs.app import app

ROOT = Path(__file__).parent.parent
README, GUIDES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
CARDS = sorted((ROOT / "fglfast" / "assets").glob("*/README.md"))
PAGES = [README, *GUIDES, *CARDS, *sorted(ROOT.glob("C*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
PROGRAM = typer.main.get_command(app)
VERBS = PROGRAM.commands
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
OTHERS = {"git", "cd", "source", "export", "sed", "bash", "flwr"}
NOT_OURS = {"--node-config", "--index-url"}
MOST_WORDS = 1800
SETTINGS = {"mine.toml": Recipe, "hospital.toml": Experiment, "clients.toml": AllowList, "run.toml": TrainSettings}


def by_name(page):
    return str(page.relative_to(ROOT))


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def prose(page):
    return re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """Each command of the page's bash blocks, as words."""
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                yield words[:end]
                words = words[end + 1 :]


def options(verb):
    return {"--help", *(option for parameter in (VERBS[verb] if verb else PROGRAM).params for option in parameter.opts)}


def benchmark_options(module):
    """Options of `python -m benchmarks.MODULE`, from the names of its `main`'s arguments."""
    tree = ast.parse((ROOT / "benchmarks" / f"{module}.py").read_text(encoding="utf-8"))
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    return {"--help", *(f"--{argument.arg.replace('_', '-')}" for argument in main.args.args)}


def check(words):
    """Fail unless a command could run as it is written."""
    first, *rest = words
    if "fglfast" in words and first in ("fglfast", "torchrun", "srun"):
        verb, *arguments = words[words.index("fglfast") + 1 :]
        VERBS[verb].make_context(verb, arguments)  # parses names, values and what is required; runs nothing
    elif first.startswith("python") and any(word.startswith("benchmarks.") for word in rest):
        at = next(place for place, word in enumerate(words) if word.startswith("benchmarks."))
        asked = {word for word in words[at:] if word.startswith("--")}
        assert asked <= benchmark_options(words[at].removeprefix("benchmarks.")), words
    elif first == "make":
        assert set(word for word in rest if "=" not in word) <= set(TARGETS), words
    elif first == "pip" or rest[1:2] == ["pip"]:
        asked = {extra for found in re.findall(r"\[(.*?)\]", " ".join(rest)) for extra in found.split(",")}
        assert asked <= PROJECT["optional-dependencies"].keys(), words
    else:
        assert first in OTHERS or first.startswith("python"), words


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_command_of_a_block_parses(page):
    for words in commands(page):
        check(words)


@pytest.mark.parametrize("page", [README, *GUIDES, *CARDS], ids=by_name)
def test_every_verb_and_option_in_the_text_exists(page):
    anyones = {option for verb in VERBS for option in options(verb)} | options(None) | NOT_OURS
    for span in re.findall(r"`([^`]+)`", prose(page)):
        words = span.split()
        asked = {word.partition("=")[0] for word in words if re.match("--[a-z]", word)}
        if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            assert asked <= benchmark_options(words[2].removeprefix("benchmarks.")), span
        elif words[0] == "make" and len(words) > 1:
            check(words)
        elif words[0] == "fglfast" and len(words) > 1:
            assert asked <= options(words[1]) if words[1] in VERBS else words[1].startswith("--"), span
        elif words[0] in VERBS:
            assert asked <= options(words[0]), span
        elif words[0].startswith("--"):
            assert asked <= anyones, span


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(page):
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_leads_to_every_guide():
    assert len(read(README).split()) <= MOST_WORDS
    assert {by_name(page) for page in GUIDES} <= set(re.findall(r"\((docs/[a-z-]+\.md)\)", read(README)))


def test_settings_that_a_guide_shows_are_accepted(tmp_path):
    shown = [block for page in [README, *GUIDES] for block in blocks(page, "toml")]
    assert {block.splitlines()[0].removeprefix("# ") for block in shown} == SETTINGS.keys()
    for block in shown:
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
        SETTINGS[name].from_toml(tmp_path / name)
    for block in [block for page in [README, *GUIDES] for block in blocks(page, "json")]:
        assert Prompts.model_validate_json(block).of("sketch").negative == "colours, photograph"


def test_a_guide_explains_every_key_of_a_recipe_and_every_exit_code():
    server, formats = read(ROOT / "docs" / "server.md"), read(ROOT / "docs" / "formats.md")
    for key in (Recipe.model_fields.keys() | Sampling.model_fields.keys()) - {"sampling"}:
        assert re.search(rf"^\| .*`(sampling)?\.?{key}`.* \| ", server, re.MULTILINE), key
    codes = re.findall(r"^\| (\d+) \|", formats.partition("## Exit codes")[2], re.MULTILINE)
    assert codes == [str(int(code)) for code in ExitCode]
