"""``python -m p2pnodes``: the command line."""

from p2pnodes.cli import main

if __name__ == "__main__":
    main()
