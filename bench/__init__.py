"""Load generator, conformance run and report for any server of the etcd v3 API.

`python -m bench --help` lists the commands. The driver has its own HTTP/2 gRPC client, because a general one
costs more CPU per request than the servers under test; `--client grpcio` cross-checks its figures.
"""
