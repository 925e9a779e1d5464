"""`python -m kine` is `kine`."""

from kine.cli import main

main()
