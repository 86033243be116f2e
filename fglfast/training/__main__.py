"""A training worker, as launch.py starts it: `python -m fglfast.training JOB_FILE`."""

import sys
from pathlib import Path

from fglfast.base.console import quiet_libraries

if __name__ == "__main__":
    quiet_libraries()
    from fglfast.training.loop import main

    sys.exit(main(Path(sys.argv[1])))
