"""The tests, grouped by the interface they go through."""

import os

# Before gRPC is loaded: its fork handlers abort a process that starts another while its threads call.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
