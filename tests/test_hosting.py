"""What people who host it build from: images, workflow and citation name extras, versions and files that exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGES = sorted((ROOT / "engines" / "docker").glob("*.Dockerfile"))
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


@pytest.mark.parametrize("file", [*IMAGES, ROOT / "Makefile", ROOT / "constraints.txt"], ids=lambda file: file.name)
def test_every_extra_that_is_installed_exists(file):
    named = re.findall(r"-e '\.\[(.+?)\]'", file.read_text(encoding="utf-8"))
    assert named and {extra for each in named for extra in each.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_setup_installs_every_extra_that_runs_without_a_gpu():
    (named,) = re.findall(r"-e '\.\[(.+?)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(named.split(",")) == PROJECT["optional-dependencies"].keys() - {"embed", "gpu", "tensorrt"}


@pytest.mark.parametrize("image", IMAGES, ids=lambda file: file.name)
def test_an_image_runs_as_a_user_and_copies_what_it_needs(image):
    text = image.read_text(encoding="utf-8")
    assert re.search(r"^USER fglfast$", text, re.MULTILINE) and 'ENTRYPOINT ["fglfast"]' in text
    left = image.with_name(f"{image.name}.dockerignore").read_text(encoding="utf-8").split()
    assert "engines/build" in left and not {"fglfast", "engines", "constraints.txt", "README.md", "LICENSE"} & set(left)


def test_the_workflow_runs_the_whole_check_on_every_python_that_is_named():
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    versions = [name.rpartition(" :: ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert jobs["check"]["strategy"]["matrix"]["python"] == versions == ["3.11", "3.12", "3.13"]
    assert [step["run"] for step in jobs["check"]["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_citation_is_of_this_version():
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (said["version"], said["license"]) == (PROJECT["version"], PROJECT["license"])
    assert said["cff-version"] == "1.2.0" and said["authors"] and said["title"]


def test_links_of_the_security_policy_lead_to_files():
    page = ROOT / ".github" / "SECURITY.md"
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_the_weights_that_draw_are_the_other_packages_and_no_client_has_them():
    told = tomllib.loads((ROOT / "engines" / "mini" / "pyproject.toml").read_text(encoding="utf-8"))
    home = ROOT / "engines" / "mini"
    placed = told["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {(home / file).resolve() for file in placed} == {ROOT / place for place in placed.values()}
    assets = ROOT / "fglfast" / "assets"
    drawing = [path for path in assets.rglob("*.safetensors") if path.parent.name in ("unet", "vae")]
    assert sorted(ROOT / place for place in placed.values()) == sorted(drawing)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    left_out = [pattern for pattern in wheel["exclude"] if pattern.startswith("/")]
    assert sorted(path for pattern in left_out for path in ROOT.glob(pattern[1:])) == sorted(drawing)
    assert told["project"]["version"] == PROJECT["version"]
