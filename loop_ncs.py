"""The searcher: looks for the layers' crates. The same as `coppice ncs`."""

from coppice.cli import script

if __name__ == "__main__":
    script("ncs")()
