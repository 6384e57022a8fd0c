"""`python -m coppice` is `coppice`."""

from coppice.cli import main

if __name__ == "__main__":
    main()
