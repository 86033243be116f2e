import io
import json
import os
import subprocess
import sys
import time
from functools import partial

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fglfast.base.errors import FglError, MissingExtraError
from fglfast.lab import doctor
from fglfast.lab.doctor import Check, installed, runtimes
from fglfast.verbs.app import app

LONG = "a reason that goes on for longer than one line of a table of eighty columns has room for, as reasons do"


def example_checks():
    return [
        Check("packages", "torch", "works", "2.13.0"),
        Check("packages", "numpy", "works", "2.4.6"),
        Check("packages", "huggingface-hub", "missing", "not installed", "pip install 'huggingface-hub>=1.0'"),
        Check("devices", "vector instructions", "works", ", ".join(installed.X86_VECTORS)),
        Check("backends", "openvino", "missing", LONG, "pip install 'fglfast[cpu]'"),
        Check("attention", "SDPA memory-efficient", "broken", "[Errno 5] " + LONG),
    ]


def shown(width):
    console = Console(file=io.StringIO(), width=width)
    console.print(doctor.table(example_checks()))
    return console.file.getvalue()


@pytest.fixture
def backends():
    # Not at the top: the process apart imports this module too, and PyTorch takes seconds.
    from fglfast.engine import backends

    return backends


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A real run, in which an import prints."""
    shadow = tmp_path_factory.mktemp("shadow")
    noise = "import atexit, os\nprint('noise')\nos.write(1, b'noise')\natexit.register(print, 'noise', flush=True)\n"
    (shadow / "kornia.py").write_text(noise)
    return run_process(shadow)


def test_no_minute_is_silent_where_there_is_no_terminal(run):
    said = run.stderr.splitlines()
    assert "trying packages" in said and "trying backends: torch" in said and "trying training: gloo" in said


@pytest.fixture(scope="module")
def seen(run):
    """What it says."""
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def run_process(shadow):
    """The command as a process of its own, in which the modules in a folder shadow the installed ones."""
    path = os.pathsep.join([str(shadow), *sys.path])
    command = [sys.executable, "-m", "fglfast", "doctor", "--json"]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def one(seen, group, name):
    (check,) = [check for check in seen["checks"] if (check["group"], check["name"]) == (group, name)]
    return check


def test_a_real_run_sees_what_is_installed(seen, backends):
    for name in backends.NAMES:
        assert one(seen, "backends", name)["state"] == ("works" if name in backends.installed() else "missing")
    assert one(seen, "backends", "torch int8")["state"] == "works"
    assert "torchao" in one(seen, "backends", "torch int8")["detail"]
    assert one(seen, "packages", "torch")["state"] == one(seen, "attention", "SDPA math")["state"] == "works"
    assert one(seen, "training", "deepspeed")["state"] == one(seen, "training", "gloo")["state"] == "works"
    assert {check["name"] for check in seen["checks"] if check["group"] == "extras"} >= {"cpu", "gpu", "fed", "dev"}
    assert {check["group"] for check in seen["checks"]} == {group for group, _ in doctor.GROUPS}


def test_the_counts_add_up(seen):
    assert seen["works"] + seen["missing"] + seen["broken"] == len(seen["checks"])
    assert set(seen) == {"checks", "works", "missing", "broken"} and seen["broken"] == 0
    assert all(set(check) == {"group", "name", "state", "detail", "mend"} for check in seen["checks"])
    assert all(check["detail"] for check in seen["checks"])
    assert not any(check["mend"] for check in seen["checks"] if check["state"] == "works")


def test_without_a_gpu_what_needs_one_has_no_mend(seen):
    if installed.DRIVER.exists():
        pytest.skip("this machine has a GPU")
    needing = [("attention", "SDPA cuDNN"), ("attention", "xformers"), ("training", "nccl"), ("extras", "gpu")]
    for check in (one(seen, *where) for where in needing):
        assert check["state"] == "missing" and "needs a CUDA GPU" in check["detail"] and not check["mend"]
    float8 = one(seen, "backends", "torch float8")
    assert float8["state"] == "missing" and "compute capability 8.9" in float8["detail"] and not float8["mend"]


def test_a_broken_torch_gives_exit_code_3_and_one_json_object(tmp_path):
    (tmp_path / "torch.py").write_text("print('noise')\nraise OSError('libtorch.so: not found\\nand more')\n")
    done = run_process(tmp_path)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    seen = json.loads(done.stdout)
    reason = "OSError: libtorch.so: not found"
    assert one(seen, "devices", "processor")["state"] == one(seen, "packages", "numpy")["state"] == "works"
    for where in [("packages", "torch"), ("backends", "backends"), ("devices", "gpus"), ("training", "deepspeed")]:
        assert one(seen, *where)["state"] == "broken" and one(seen, *where)["detail"] == reason
    # Kornia is sound: what it imports is not.
    assert one(seen, "packages", "kornia")["mend"] == "pip install --force-reinstall torch"


def test_imports_that_print_do_not_disturb_the_json(run, seen):
    assert run.stdout.count("\n") == 1 and seen["broken"] == 0
    assert all(line.startswith("trying ") for line in run.stderr.splitlines()), "no library's noise"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_required_failure_gives_exit_code_3(as_json, monkeypatch):
    failed = Check("backends", "torch", "broken", "no", "pip install torch")
    monkeypatch.setattr(doctor, "diagnose", lambda: [failed, Check("backends", "openvino", "works", "yes")])
    result = CliRunner().invoke(app, ["doctor", *(["--json"] if as_json else [])])
    assert result.exit_code == 3
    assert "pip install torch" in result.stderr and "torch" in result.stdout
    assert not as_json or json.loads(result.stdout)["broken"] == 1


def test_an_optional_failure_does_not(monkeypatch):
    monkeypatch.setattr(doctor, "diagnose", lambda: [Check("backends", "openvino", "broken", "no")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0 and "0 work, 0 missing, 1 broken" in result.stdout


def test_a_backend_that_is_not_installed_is_missing_with_its_command(backends, monkeypatch):
    installed = backends._version
    monkeypatch.setattr(backends, "_version", lambda name: None if name == "openvino" else installed(name))
    found = {name: doctor.examine("backends", name, probe) for name, probe in runtimes.backends().items()}
    assert found["openvino"].state == "missing" and found["openvino"].mend == "pip install 'fglfast[cpu]'"
    assert found["torch"].state == found["onnxruntime"].state == "works"


def test_a_backend_that_raises_is_broken_and_the_rest_still_runs(monkeypatch):
    import openvino

    def explode():
        raise RuntimeError("no plugin for this processor\nand a page of C++")

    monkeypatch.setattr(openvino, "Core", explode)
    found = {name: doctor.examine("backends", name, probe) for name, probe in runtimes.backends().items()}
    assert (found["openvino"].state, found["openvino"].detail) == (
        "broken",
        "RuntimeError: no plugin for this processor",
    )
    assert found["torch"].state == found["onnxruntime"].state == "works"


def fail(error):
    raise error


class Panic(BaseException):
    """As Rust's in Python: no Exception, and not to be pickled."""

    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (MissingExtraError("not here", "get it"), Check("g", "n", "missing", "not here", "get it")),
        (FglError("fails", "mend it"), Check("g", "n", "broken", "fails", "mend it")),
        (ValueError("one\ntwo"), Check("g", "n", "broken", "ValueError: one")),
        (AssertionError(), Check("g", "n", "broken", "AssertionError")),
        (SystemExit(2), Check("g", "n", "broken", "SystemExit: 2")),
        (Panic("unwrap", "lib.rs"), Check("g", "n", "broken", "Panic: unwrap at lib.rs")),
    ],
)
def test_whatever_is_raised_becomes_a_check(error, check):
    assert doctor.examine("g", "n", partial(fail, error)) == check


def test_an_interruption_is_one():
    with pytest.raises(KeyboardInterrupt):
        doctor.examine("g", "n", partial(fail, KeyboardInterrupt()))


def crash():
    os.abort()


def noisy():
    os.write(1, b"noise")
    return "fine"


def crashing_list():
    os.abort()


def failing_list():
    raise ImportError("no list")


def three():
    return {"before": noisy, "crash": crash, "after": noisy}


def endless():
    time.sleep(300)


def slow_list():
    return {"endless": endless, "after": noisy}


def test_a_check_that_takes_too_long_is_broken_and_the_others_are_tried(monkeypatch):
    monkeypatch.setattr(doctor, "GROUPS", (("slow", slow_list),))
    monkeypatch.setattr(doctor, "PATIENCE", 2)
    expected = [Check("slow", "endless", "broken", "not done after 2 s"), Check("slow", "after", "works", "fine")]
    assert doctor.diagnose() == expected


def test_a_crash_is_one_broken_check(monkeypatch, capfd):
    groups = (("lists", crashing_list), ("lists", failing_list), ("three", three))
    monkeypatch.setattr(doctor, "GROUPS", groups)
    assert doctor.diagnose() == [
        Check("lists", "crashing_list", "broken", doctor.CRASH),
        Check("lists", "failing_list", "broken", "ImportError: no list"),
        Check("three", "before", "works", "fine"),
        Check("three", "crash", "broken", doctor.CRASH),
        Check("three", "after", "works", "fine"),
    ]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("found", "detail"), [(None, "not installed, >=2.0 needed"), ("1.2", "1.2 installed, >=2.0 needed")]
)
def test_a_core_package_that_is_absent_or_old_is_missing(found, detail, monkeypatch):
    monkeypatch.setattr(installed, "distribution_version", lambda name: found)
    check = doctor.examine("packages", "numpy", installed.packages()["numpy"])
    assert check == Check("packages", "numpy", "missing", detail, "pip install 'numpy>=2.0'") and check.required


def test_what_only_a_server_needs_may_be_absent_but_not_broken():
    lacking = ModuleNotFoundError("No module named 'torch'", name="torch")
    gone = doctor.examine("backends", "torch", lambda: fail(lacking))
    assert gone.state == "missing" and gone.mend == "pip install 'fglfast[server]'" and not gone.required
    assert doctor.examine("backends", "torch", lambda: fail(OSError("libtorch.so"))).required
    own = doctor.examine("training", "deepspeed", lambda: fail(ModuleNotFoundError("no", name="fglfast.nothing")))
    assert own.state == "broken" and not own.mend


def test_an_extra_names_what_it_lacks(monkeypatch):
    monkeypatch.setattr(installed, "distribution_version", lambda name: None)
    check = doctor.examine("extras", "fed", installed.extras()["fed"])
    assert (
        check.state == "missing"
        and check.detail.startswith("lacks flwr")
        and check.mend == "pip install 'fglfast[fed]'"
    )


def test_onnxruntime_gpu_stands_in_for_onnxruntime(monkeypatch):
    known = {"onnxruntime-gpu": "1.31.1"}

    def version(name):
        if name in known:
            return known[name]
        raise installed.PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", version)
    monkeypatch.setattr(installed, "_modules", lambda: {"onnxruntime": ["onnxruntime-gpu"]})
    assert installed.distribution_version("onnxruntime") == "1.31.1"
    assert installed.distribution_version("openvino") is None


def test_a_torch_without_cuda_beside_a_driver_is_told_apart(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(installed, "DRIVER", tmp_path)
    assert doctor.examine("devices", "cuda", installed._no_gpu).mend == "pip install --force-reinstall torch"
    monkeypatch.setattr(installed, "DRIVER", tmp_path / "none")
    assert doctor.examine("devices", "cuda", installed._no_gpu) == Check(
        "devices", "cuda", "missing", "no NVIDIA driver is loaded"
    )


def test_ninja_off_the_path_is_told_from_no_ninja(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(installed, "distribution_version", lambda name: "1.13")
    assert "PATH" in doctor.examine("training", "ninja", installed.ninja).mend
    monkeypatch.setattr(installed, "distribution_version", lambda name: None)
    assert doctor.examine("training", "ninja", installed.ninja).mend == "pip install ninja"


def test_a_working_directory_that_cannot_be_written_is_broken(monkeypatch):
    monkeypatch.setattr(installed.tempfile, "TemporaryFile", lambda dir: fail(OSError(28, "No space left on device")))
    check = doctor.examine("disk and hub", "working directory", installed.disk_and_hub()["working directory"])
    assert check.state == "broken" and "No space left" in check.detail


def test_the_warning_that_refuses_a_kernel_is_found():
    said = [
        "Memory efficient kernel not used because: (Triggered internally at a.cpp:1.)",
        "Memory Efficient attention has been runtime disabled. (Triggered internally at a.cpp:2.)",
        "Flash attention kernel not used because: (Triggered internally at a.cpp:3.)",
        "Flash attention only supports gpu architectures in the range [sm80, sm121]. (Triggered internally at a.cpp:4)",
    ]
    assert runtimes._refusal(said) == "Flash attention only supports gpu architectures in the range [sm80, sm121]."
    assert runtimes._refusal([]) == "not for this GPU"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_cuts_nothing(width):
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert "mend: pip install 'fglfast[cpu]'" in text and "[Errno 5]" in text
    assert "torch==2.13.0, numpy==2.4.6" in text and "2 packages" in text
