"""Load driver, correctness run and report for any server of the etcd v3 API.

`python -m bench --help` lists the commands. The driver has an HTTP/2 gRPC client of its own, because a
general one costs more CPU a request than the servers measured; `--client grpcio` cross-checks its figures.
"""
