"""The outer loop: trains, asks for searches, cuts, repairs. The same as `coppice outer`."""

from coppice.cli import script

if __name__ == "__main__":
    script("outer")()
