"""`python -m coppice` is `coppice`."""

from coppice.cli import main

main()
