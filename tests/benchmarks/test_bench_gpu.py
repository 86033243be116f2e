"""The GPU benchmark on a CPU: all of it but CUDA itself."""

import json
import subprocess
import sys
import time

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import gpu, gpu_rows, peers, results_file
from benchmarks.contender import WITHOUT
from benchmarks.gpu import COMPILED, attention, main, targets, verdicts
from benchmarks.gpu_rows import limited
from benchmarks.peers import REFERENCE, compare
from fglfast.base.timing import Timing
from fglfast.engine import attention as attention_kernels
from fglfast.engine.build import is_built
from fglfast.engine.recipe import Recipe, find_recipe
from fglfast.lab.bench.ceiling import Work
from fglfast.verbs.app import app

SHAPE = "4096x4096x8x40 bfloat16"
EAGER = "fglfast torch:bfloat16"
SMALL = 'image_size = 64\nunet_batch = 4\nvae_batch = 4\n[sampling]\nscheduler = "dpmsolver++"\nguidance_scale = 2.0\n'


def row(name, rate, **more):
    return {"name": name, "images_per_second": rate, **more}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_cuda_it_says_what_to_install(capsys):
    with pytest.raises(typer.Exit) as ended:
        main()
    assert ended.value.exit_code == 3
    assert "pip install -e '.[server,gpu]'" in capsys.readouterr().err


def test_an_engine_beside_a_peer_on_a_small_model(shallow, tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    recipe, name = gpu.asked_for(str(tmp_path / "small.toml"), 2), f"{EAGER}{WITHOUT}xformers"
    names = dict.fromkeys([name, REFERENCE], sys.executable) | {"no such peer": "false"}
    result = compare(recipe, shallow("sd15"), names, "bfloat16", 1, tmp_path / "engines")
    ours, eager = (next(row for row in result["contenders"] if row["name"] == which) for which in (name, REFERENCE))
    assert set(result["left_out"]) == {"no such peer"} and result["settings"]["dtype"] == "bfloat16"
    assert ours["against_eager"]["psnr"] > 30 and ours["share"] > 0
    assert all(set(seconds) <= {"flash", "math"} for seconds in ours["attention"].values()) and ours["attention"]
    assert "attention" not in eager
    apart = tmp_path / "engines" / "without-xformers"
    assert list(apart.glob("*/attention.json"))  # no key is shared
    drawing = gpu.drawing(recipe, name)
    assert is_built(drawing, shallow("sd15"), apart) and drawing.sampling == recipe.sampling


@pytest.fixture
def calls(shallow, tmp_path, monkeypatch):
    """Call the script with stand-ins for what takes long: returns what was measured anew, and what was printed."""
    monkeypatch.setattr(results_file, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu, "RESULTS", tmp_path)
    (tmp_path / "small.toml").write_text(SMALL)
    done = []

    def compared(recipe, folder, names, dtype, rounds, engines):
        done.append(" + ".join(names))
        broken = [name for name in names if "int8" in name]
        rates = {name: 12.0 - 3 * place for place, name in enumerate(names) if name not in broken}
        told = {"precision": "bfloat16", "share": 0.5, "peak_memory_bytes": 2**30, "load_seconds": 1.0}
        contenders = [row(name, rate, **told) for name, rate in rates.items()]
        return {
            "contenders": contenders,
            "left_out": dict.fromkeys(broken, "no kernel"),
            "ceilings_tflops": {"bfloat16": 700.0},
        }

    def trained(arch, side, batch, rounds):
        done.append(f"training at {side} in batches of {batch}")
        return Work(batch, 10**12, Timing.of([batch / 900]))

    def ranks(recipe, folder, engines, images):
        done.append(f"two ranks, {images}")
        return {"seconds_alone": 4.0, "seconds_by_two": 3.0, "shards": 2, "equal": True}

    for name, stand_in in (("compare", compared), ("training_work", trained), ("two_ranks", ranks)):
        monkeypatch.setattr(gpu, name, stand_in)

    def call(**asked):
        done.clear()
        asked.setdefault("ours", "torch:bfloat16,torch:int8")
        main(
            model=str(shallow("sd15")),
            recipe=str(tmp_path / "small.toml"),
            peers=f"{REFERENCE},{COMPILED}",
            limit=3000,  # its end is the end of this process
            engines=tmp_path / "engines",
            device="any",
            **({"batch": 2, "steps": 2, "rounds": 1, "images": 3} | asked),
        )
        return list(done)

    return call


def test_every_row_is_kept_and_only_what_failed_is_tried_again(calls, tmp_path, capsys):
    beside = f"{EAGER} + {REFERENCE} + {COMPILED}"
    first = [EAGER, "fglfast torch:int8", beside, "training at 64 in batches of 8", "two ranks, 3"]
    assert calls() == first
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["training"]["images_per_second"] == 900.0 and result["two_ranks"]["equal"]
    assert [engine["name"] for engine in result["engines"]] == [EAGER] and "no kernel" in str(result["failed"])
    said = capsys.readouterr().out
    assert "wanted 9.3 images/s: 12.0: reached" in said and "two ranks: 3.0 s, alone 4.0 s, the same tars" in said
    assert calls() == ["fglfast torch:int8"]
    assert json.loads((tmp_path / "gpu.json").read_text())["two_ranks"] == result["two_ranks"]
    assert calls(steps=3) == first  # another question


def test_the_only_engine_is_measured_beside_the_peers_and_what_is_cut_short_leaves_a_table(
    calls, tmp_path, capsys, monkeypatch
):
    whole = gpu.two_ranks

    def cut_short(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "two_ranks", cut_short)
    with pytest.raises((typer.Exit, KeyboardInterrupt)):
        calls(ours="torch:bfloat16")
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["training"]["images_per_second"] == 900.0 and result["two_ranks"] is None
    assert [engine["name"] for engine in result["engines"]] == [EAGER] and result["targets"][0]["found"] == 12.0
    monkeypatch.setattr(gpu, "two_ranks", whole)
    assert calls(ours="torch:bfloat16") == ["two ranks, 3"]


def test_a_contender_that_takes_too_long_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "PATIENCE", 0.5)
    monkeypatch.setattr(peers, "WORKER", tmp_path / "slow.py")
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    slow = peers.Contender(sys.executable)
    slow.load({})
    slow.close()
    assert slow.told == {"error": "it was not ready after 0 s"}


def test_two_ranks_share_the_work_and_draw_what_one_draws(random_mini, tiny_recipe, tmp_path, monkeypatch):
    """Their commands in this process, one after the other."""

    def together(commands, changes):
        for number, command in enumerate(commands):
            with pytest.MonkeyPatch.context() as patch:
                for name, value in (changes and changes | {"RANK": str(number)}).items():
                    patch.setenv(name, value)
                ended = CliRunner().invoke(app, command)
            assert ended.exit_code == 0, ended.output
        return 1.0

    monkeypatch.setattr(gpu_rows, "_together", together)
    found = gpu_rows.two_ranks(find_recipe(tiny_recipe), random_mini, tmp_path / "engines", 2)
    assert found == {"seconds_alone": 1.0, "seconds_by_two": 1.0, "shards": 3, "equal": True}


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
    rest = {"engines": [], "failed": {}, "training": None, "two_ranks": None}
    lines = verdicts({"targets": targets(rows), "attention": found} | rest)
    assert lines[0] == "wanted 9.3 images/s: 9.0: missed" and lines[2].endswith(": 1.8: missed")
    assert f"attention {SHAPE}: cudnn is fastest (flash 3.000 ms, cudnn 1.000 ms, xformers 2.000 ms)" in lines
    assert lines[-1] == f"{EAGER}: 8.0 images/s, 9.0 without xformers"


def test_every_precision_of_every_backend_on_a_gpu(monkeypatch):
    monkeypatch.setattr(gpu_rows, "find_spec", lambda name: None)
    monkeypatch.setattr(attention_kernels, "xformers_refusal", lambda: "it was built for another PyTorch")
    names = gpu_rows.engines_here()
    assert {"torch:bfloat16", "torch-compile:float16", "torch:float32"} <= set(names)
    assert not any(WITHOUT in name or name.startswith("openvino") for name in names)
    monkeypatch.setattr(gpu_rows, "find_spec", lambda name: object())
    monkeypatch.setattr(attention_kernels, "xformers_refusal", lambda: "")
    names = gpu_rows.engines_here()
    assert f"torch:bfloat16{WITHOUT}xformers" in names and f"torch-compile:bfloat16{WITHOUT}xformers" in names
    assert names[0] == "torch:bfloat16" and f"torch:float16{WITHOUT}xformers" not in names


def test_the_measured_batch_is_bounded_by_what_fits_beside_the_others(monkeypatch, tmp_path):
    recipe = Recipe(image_size=64)
    tuned = recipe.model_copy(update={"unet_batch": 256, "vae_batch": 64})
    monkeypatch.setattr(gpu, "search_batches", lambda *_: tuned)
    assert gpu.batches(recipe, tmp_path, tmp_path, None) == {"unet_batch": gpu.LARGEST, "vae_batch": gpu.LARGEST}
    assert gpu.batches(recipe, tmp_path, tmp_path, 4) == {"unet_batch": 4, "vae_batch": 4}


def test_a_call_ends_at_its_limit_whatever_is_caught_inside():
    script = """
import time
from benchmarks.gpu_rows import limited
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
