"""Entry point of `python -m kine`, the same as `kine`."""

from kine.cli import main

main()
