"""The program's entry: `fglfast` and `python -m fglfast`."""

import signal
import sys

from fglfast.base.errors import ExitCode


def main() -> None:
    """Run the command line; libraries are told to keep quiet before any of them is imported.

    What takes time to import is imported here: an interrupt meanwhile is an interrupt, not a traceback.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from fglfast.base.console import quiet_libraries

        quiet_libraries()
        from fglfast.verbs.app import app

        app()
    except KeyboardInterrupt:  # before a verb began, or after it ended
        sys.stderr.write("error: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
