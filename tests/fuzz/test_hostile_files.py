"""Hostile payloads, data sets, manifests and recipes: what becomes of them.

Each is sound files spoilt in one way. A failure is a traceback, a hang, more memory than allowed, a broken rule let
through, a sound file refused, or a lie: something accepted that an independent reading of the bytes contradicts.
"""

import os

import pytest
from judge import KINDS, MEMORY, SLOW, run, single_threaded

from benchmarks.results_file import save_result

SMOKE = 80  # cases
CASES = int(os.environ.get("FUZZ_CASES", 10_000))  # of each kind; ten times as many payloads, the only files from afar


@pytest.fixture(scope="module")
def process():
    with single_threaded() as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_hostile_files(process, kind):
    found = process.submit(run, kind, SMOKE).result()
    assert not found["failures"], "\n".join(found["failures"])
    assert found["accepted"] and found["refused"] and found["cases"] >= SMOKE


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_hostile_files_by_the_ten_thousand(process):
    cases = {kind: CASES * (10 if kind == "payload" else 1) for kind in KINDS}
    found = {kind: process.submit(run, kind, count).result() for kind, count in cases.items()}
    save_result("fuzz", {"command": f"make fuzz FUZZ_CASES={CASES}", "memory_limit_mib": MEMORY, "kinds": found})
    assert not [failure for kind in found.values() for failure in kind["failures"]]
    assert max(kind["slowest"]["cpu_ms"] for kind in found.values()) < SLOW
