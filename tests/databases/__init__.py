"""Database servers for tests: each in a temporary directory, on a free port of 127.0.0.1.

A server that the system runs is never used. Data directories are created for the run and removed at its end.
"""
