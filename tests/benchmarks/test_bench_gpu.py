"""The GPU benchmark on a CPU: all of it but CUDA itself."""

import json
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import gpu, results_file
from benchmarks.contender import WITHOUT
from benchmarks.gpu import COMPILED, attention, limited, main, targets, verdicts, with_batches, worth_measuring
from benchmarks.peers import REFERENCE
from fglfast.engine.recipe import Recipe

SHAPE = "4096x4096x8x40 bfloat16"
EAGER = "fglfast torch:bfloat16"
SMALL = 'image_size = 64\nunet_batch = 4\nvae_batch = 4\n[sampling]\nscheduler = "dpmsolver++"\nguidance_scale = 2.0\n'


def row(name, rate, **more):
    return {"name": name, "images_per_second": rate, **more}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_cuda_it_says_what_to_install():
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert "needs a CUDA device" in done.stderr and "pip install -e '.[gpu]'" in done.stderr


def test_the_whole_script_on_a_small_model(shallow, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results_file, "RESULTS", tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    main(
        model=str(shallow("sd15")),
        recipe=str(tmp_path / "small.toml"),
        batch=2,
        steps=2,
        rounds=1,
        ours=f"torch:bfloat16{WITHOUT}xformers",
        peers=f"{REFERENCE},no such peer",
        limit=3000,  # its end is the end of this process
        engines=tmp_path / "engines",
        name="gpu",
        device="any",
    )
    result, said = json.loads((tmp_path / "gpu.json").read_text()), capsys.readouterr().out
    ours, eager = (
        next(found for found in result["contenders"] if found["name"].startswith(name))
        for name in ("fglfast", REFERENCE)
    )
    assert set(result["left_out"]) == {"no such peer"} and result["settings"]["dtype"] == "bfloat16"
    assert ours["against_eager"]["psnr"] > 30 and ours["share"] > 0
    assert all(set(seconds) <= {"flash", "math"} for seconds in ours["attention"].values()) and ours["attention"]
    assert "attention" not in eager
    assert result["targets"][2]["found"] == pytest.approx(ours["images_per_second"] / eager["images_per_second"], 0.01)
    assert f"wanted 1.3 times {COMPILED}: not measured" in said and "xformers against SDPA: not measured" in said
    assert list((tmp_path / "engines" / "without-xformers").glob("*/attention.json"))  # no key is shared


def test_targets_are_reached_missed_or_unknown():
    rows = [row(EAGER, 9.0), row("fglfast torch-compile:bfloat16", 10.0), row(REFERENCE, 5.5)]
    found = targets(rows)
    assert [entry["reached"] for entry in found] == [True, None, False]
    assert [entry["found"] for entry in found] == [10.0, None, 1.818]
    assert [entry["reached"] for entry in targets([*rows, row(COMPILED, 7.0)])] == [True, True, False]
    assert [entry["reached"] for entry in targets([row(REFERENCE, 5.0)])] == [None, None, None]


def test_xformers_and_sdpa_are_compared_by_shape_and_by_images():
    seconds = {SHAPE: {"flash": 0.003, "cudnn": 0.001, "xformers": 0.002}, "1x1x1x512 bfloat16": {}}
    rows = [
        row(f"{EAGER}{WITHOUT}xformers", 9.0, attention={SHAPE: {"flash": 0.003}}),
        row(EAGER, 8.0, attention=seconds),
        row(REFERENCE, 5.0),
    ]
    found = attention(rows)
    assert found["shapes"] == {SHAPE: {"fastest": "cudnn", "seconds": seconds[SHAPE]}}
    assert found["images_per_second"] == {EAGER: {"with": 8.0, "without": 9.0}}
    lines = verdicts({"targets": targets(rows), "attention": found})
    assert lines[0] == "wanted 9.3 images/s: 9.0: missed" and lines[2].endswith(": 1.8: missed")
    assert f"attention {SHAPE}: cudnn is fastest (flash 3.000 ms, cudnn 1.000 ms, xformers 2.000 ms)" in lines
    assert lines[-1] == f"{EAGER}: 8.0 images/s, 9.0 without xformers"


def test_backends_that_may_use_xformers_also_run_without(monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert "torch:bfloat16" in worth_measuring() and not any(WITHOUT in name for name in worth_measuring())
    monkeypatch.setattr(gpu, "find_spec", lambda name: object())
    names = worth_measuring()
    assert f"torch:bfloat16{WITHOUT}xformers" in names and f"torch-compile:bfloat16{WITHOUT}xformers" in names
    assert not [name for name in names if name.startswith("openvino")]  # not in 16 bits


def test_the_measured_batch_is_bounded_by_what_fits_beside_the_others(monkeypatch, tmp_path):
    recipe = Recipe(image_size=64)
    tuned = recipe.model_copy(update={"unet_batch": 256, "vae_batch": 64})
    monkeypatch.setattr(gpu, "search_batches", lambda *_: tuned)
    found = with_batches(recipe, tmp_path, tmp_path, None)
    assert (found.unet_batch, found.vae_batch) == (gpu.LARGEST, gpu.LARGEST)
    asked = with_batches(recipe, tmp_path, tmp_path, 4)
    assert (asked.unet_batch, asked.vae_batch) == (4, 4)


def test_a_call_ends_at_its_limit_whatever_is_caught_inside():
    script = """
import time
from benchmarks.gpu import limited
with limited(1):
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 5 and "not done after 1 s" in done.stderr and "run the same command again" in done.stderr


def test_a_call_within_its_limit_goes_on():
    with limited(1):
        pass
    time.sleep(1.2)
