"""The program's entry: `fglfast` and `python -m fglfast`."""

from fglfast.console import quiet_libraries


def main() -> None:
    """Run the command line; libraries are told to keep quiet before any of them is imported."""
    quiet_libraries()
    from fglfast.cli import app

    app()


if __name__ == "__main__":
    main()
