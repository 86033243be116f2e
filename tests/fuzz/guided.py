"""Cases of a kind, guided by the code that they reach (atheris, libFuzzer), until one fails or the time is up.

`pip install atheris`, which has wheels for Python 3.11 to 3.13, then `python tests/fuzz/guided.py payload
-max_total_time=60 FOLDER`: options are libFuzzer's, and the folder keeps the inputs that were worth it.
"""

import sys
import tempfile
from pathlib import Path

import atheris
from hypothesis import HealthCheck, given, settings

with atheris.instrument_imports(include=["fglfast"]):
    from judge import ROOM, find_kind, judge

if __name__ == "__main__":
    program, name, *options = sys.argv
    kind, folder = find_kind(name), Path(tempfile.mkdtemp(dir=ROOM, prefix="fglfast-fuzz-"))

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(kind.cases())
    def every_case(case):
        judge(kind, case, folder)

    atheris.Setup([program, "-rss_limit_mb=2048", "-len_control=0", *options], every_case.hypothesis.fuzz_one_input)
    atheris.Fuzz()
