"""The commands beside the server: each a module of its own, added to the command line by `kine.cli`."""
