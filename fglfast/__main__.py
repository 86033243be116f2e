"""The program's entry: `fglfast` and `python -m fglfast`."""

import os
import signal
import sys

from fglfast.base.errors import ExitCode


def main() -> None:
    """Run the command line; libraries are told to keep quiet before any of them is imported.

    What takes time to import is imported here: an interrupt meanwhile is an interrupt, not a traceback.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from fglfast.base.console import complain, open_streams, quiet_libraries, written_out

        open_streams()
        quiet_libraries()
        try:
            from fglfast.verbs.app import app

            app()
        except SystemExit as ended:
            sys.exit(ended.code or (ExitCode.DONE if written_out() else ExitCode.FAILURE))
        except OSError as error:  # verbs answer for theirs: this is the help's output
            if os.environ.get("FGLFAST_DEBUG"):
                raise
            complain(f"error: standard output cannot be written ({error.strerror})")
            written_out()
            sys.exit(ExitCode.FAILURE)
    except KeyboardInterrupt:  # before a verb began, or after it ended
        sys.stderr.write("error: interrupted\n")
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
