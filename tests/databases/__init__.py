"""Database servers for tests: each in a temporary directory, on a free port of 127.0.0.1.

Never a system's own instance: data directories are made anew, and removed when the test run ends.
"""
