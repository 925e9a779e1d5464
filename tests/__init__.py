"""The tests, grouped by the interface they go through."""

import os

# Set before gRPC is loaded: its fork handlers abort a process that forks while its threads make calls.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
