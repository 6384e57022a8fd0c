"""`python -m coppice` is `coppice`."""

import sys


def main() -> None:
    """The command line; Ctrl-C while it is still being loaded ends it without a word, too."""
    try:
        from coppice.cli import main as serve

        serve()
    except KeyboardInterrupt:
        sys.exit(130)  # as coppice.errors.INTERRUPTED, which may not be loaded yet


if __name__ == "__main__":
    main()
