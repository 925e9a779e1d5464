"""Synthetic objects in the form Kubernetes stores them: the key, and a value of 1 to 50 kB.

Built-in kinds are stored as the bytes `k8s\\0` and a protobuf message of the type and the object, custom ones
as JSON (k8s.io/apimachinery, runtime/serializer). The inner message here has the nesting and the strings of
the real one, not its field numbers, because a store does not parse it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.etcd_requests import sized, varint

Object = dict[str, Any]
NAMESPACES = ("default", "kube-system", "monitoring", "team-a", "team-b")
MAX_BYTES = 50_000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A key and value of the store; `leased` ones are Events, which expire."""

    key: bytes
    value: bytes
    leased: bool = False


def _metadata(rng: Random, name: str, namespace: str = "", managed: int = 1) -> Object:
    fields: Object = {
        f"f:{word}": {} for word in ("metadata", "labels", "spec", "status", "conditions", "containers")
    }
    return {
        "name": name,
        **({"namespace": namespace} if namespace else {}),
        "uid": str(rng.getrandbits(128)),
        "creationTimestamp": f"2026-01-{rng.randrange(1, 28):02}T10:00:00Z",
        "labels": {
            "app.kubernetes.io/name": name.rpartition("-")[0],
            "pod-template-hash": f"{rng.getrandbits(32):x}",
        },
        "managedFields": [
            {"manager": f"controller-{n}", "operation": "Update", "apiVersion": "v1", "fieldsV1": fields}
            for n in range(managed)
        ],
    }


def pod(rng: Random, number: int) -> tuple[str, Object]:
    """3 to 12 kB, depending on its containers."""
    namespace, name = rng.choice(NAMESPACES), f"web-{rng.getrandbits(32):08x}-{number:05}"
    containers = [
        {
            "name": f"container-{n}",
            "image": f"registry.example.com/team/app-{n}:{rng.getrandbits(40):x}",
            "args": [f"--flag-{k}={rng.getrandbits(64):x}" for k in range(10)],
            "env": [{"name": f"VARIABLE_{k}", "value": f"{rng.getrandbits(96):x}"} for k in range(20)],
            "volumeMounts": [{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io"}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }
        for n in range(rng.randrange(1, 6))
    ]
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T10:00:00Z"}
        for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    ]
    return f"pods/{namespace}/{name}", {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": _metadata(rng, name, namespace, 3),
        "spec": {"nodeName": f"node-{rng.randrange(100)}", "containers": containers},
        "status": {"phase": "Running", "podIP": f"10.1.{rng.randrange(256)}.4", "conditions": conditions},
    }


def config_map(rng: Random, number: int) -> tuple[str, Object]:
    """1 to 48 kB, most of them small."""
    namespace, name = rng.choice(NAMESPACES), f"config-{number:05}"
    lines = rng.choice((10, 10, 20, 50, 200, 700))
    text = "\n".join(f"setting.{n}.name = {rng.getrandbits(160):040x}" for n in range(lines))
    return f"configmaps/{namespace}/{name}", {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(rng, name, namespace, 3),
        "data": {"application.properties": text},
    }


def secret(rng: Random, number: int) -> tuple[str, Object]:
    """2 to 8 kB of bytes that do not compress."""
    namespace, name = rng.choice(NAMESPACES), f"tls-{number:05}"
    data = {
        n: base64.b64encode(rng.randbytes(rng.randrange(500, 2500))).decode() for n in ("tls.crt", "tls.key")
    }
    return f"secrets/{namespace}/{name}", {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(rng, name, namespace),
        "type": "kubernetes.io/tls",
        "data": data,
    }


def lease(rng: Random, number: int) -> tuple[str, Object]:
    """About 1 kB."""
    name = f"node-{number:05}"
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T10:00:00.000000Z"}
    return f"leases/kube-node-lease/{name}", {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": _metadata(rng, name, "kube-node-lease", 6),
        "spec": spec,
    }


def event(rng: Random, number: int) -> tuple[str, Object]:
    """1 to 2 kB; stored under a lease."""
    namespace, name = rng.choice(NAMESPACES), f"web-{number:05}.{rng.getrandbits(60):x}"
    return f"events/{namespace}/{name}", {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": _metadata(rng, name, namespace, 6),
        "involvedObject": {"kind": "Pod", "namespace": namespace, "name": name.partition(".")[0]},
        "reason": rng.choice(("Scheduled", "Pulled", "Created", "Started", "BackOff")),
        "message": f"Successfully assigned {namespace}/{name} to node-{rng.randrange(100)} "
        + "." * rng.randrange(900),
        "source": {"component": "default-scheduler"},
        "count": rng.randrange(1, 99),
    }


def custom_resource_definition(rng: Random, number: int) -> tuple[str, Object]:
    """10 to 45 kB of JSON: a schema with descriptions."""
    name = f"widgets{number}.example.com"
    properties = {
        f"property{n}": {"type": "string", "description": f"Property {n} says {rng.getrandbits(480):x}."}
        for n in range(rng.randrange(45, 220))
    }
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"properties": properties}}}}
    return f"apiextensions.k8s.io/customresourcedefinitions/{name}", {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": _metadata(rng, name),
        "spec": {"group": "example.com", "versions": [{"name": "v1", "served": True, "schema": schema}]},
    }


Maker = Callable[[Random, int], tuple[str, Object]]
MAKERS: tuple[tuple[Maker, int], ...] = (  # with their number in a hundred
    (pod, 30),
    (config_map, 20),
    (secret, 15),
    (lease, 15),
    (event, 15),
    (custom_resource_definition, 5),
)


def objects(root: bytes, count: int, seed: int) -> list[StoredObject]:
    """`count` objects under the root, in the order of creation; the same for the same seed."""
    rng = Random(seed)
    makers = [maker for maker, share in MAKERS for _ in range(share)]
    made = []
    for number in range(count):
        maker = makers[(number * 37) % len(makers)]
        path, content = maker(rng, number)
        made.append(StoredObject(root + path.encode(), encode(content), leased=maker is event))
    return made


def encode(content: Object) -> bytes:
    """The stored bytes of an object, at least 1 kB, at most MAX_BYTES."""
    if content["kind"] == "CustomResourceDefinition":
        return json.dumps(content, separators=(",", ":")).encode()
    types = sized(b"\x0a", content["apiVersion"].encode()) + sized(b"\x12", content["kind"].encode())
    value = b"k8s\0" + sized(b"\x0a", types) + sized(b"\x12", _message(content)) + b"\x1a\x00\x22\x00"
    if len(value) > MAX_BYTES:
        raise ValueError(f"{content['kind']} of {len(value)} bytes")
    return value


def _message(content: Object) -> bytes:
    """Nested fields, numbered in order of appearance."""
    out = []
    for number, (key, value) in enumerate(content.items(), 1):
        for one in value if isinstance(value, list) else [value]:
            tag = varint(number << 3 | 2)
            if isinstance(one, dict):
                out.append(sized(tag, sized(b"\x0a", key.encode()) + _message(one)))
            elif isinstance(one, str):
                out.append(sized(tag, one.encode()))
            else:
                out.append(varint(number << 3) + varint(int(one)))
    return b"".join(out)
