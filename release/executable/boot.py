"""Start-up code inside the executable: locates its modules, libraries and data, in a directory or in memory.

Python modules and data are in kine.zip, which is on the path. Shared libraries are in lib/: extension modules
as MODULE.so, with the libraries they need. `_layout`, written by build.py, lists them.
"""

from __future__ import annotations

import os
import sys
import zipimport
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

import _kine  # type: ignore[import-not-found]
import _layout  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

_archive: zipimport.zipimporter = __spec__.loader  # type: ignore[assignment]
_in_memory = (
    dict(part.split("=") for part in _kine.files.strip(":").split(":")) if _kine.files[0] == ":" else None
)
_opened: set[str] = set()


def _file(name: str) -> str:
    if _in_memory is not None:
        # With this process' number, because a program started from it has file descriptors of its own.
        return f"/proc/{os.getpid()}/fd/{_in_memory[name]}"
    return f"{_kine.files}/{name}"


class _Finder:
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name in _layout.LIBRARIES:
            if _in_memory is not None:
                _open_needed(name)
            place = _file(f"lib/{name}.so")
            return ModuleSpec(name, ExtensionFileLoader(name, place), origin=place)
        if (mend := _MENDED.get(name)) is not None and (
            found := PathFinder.find_spec(name, path)
        ) is not None:
            found.loader = _Mended(found.loader, mend)
            return found
        return None

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        from importlib.metadata import Distribution

        class Packed(Distribution):
            def __init__(self, name: str) -> None:
                self._text = _layout.METADATA[name]

            def read_text(self, filename: str) -> str | None:
                return self._text if filename == "METADATA" else None

            def locate_file(self, path: Any) -> Any:
                return path

        wanted = getattr(context, "name", None)
        names = _layout.METADATA if wanted is None else [wanted.lower().replace("_", "-")]
        return (Packed(name) for name in names if name in _layout.METADATA)


def _open_needed(module: str) -> None:
    """Opens the libraries that a module needs before it: in memory the loader finds none by name."""
    for name in _layout.LIBRARIES[module]:
        if name not in _opened:
            _kine.open_library(_file(f"lib/{name}"))
            _opened.add(name)


class _Mended:
    """Loader for a module that looks for files in its own directory; patches it to look in the archive."""

    def __init__(self, loader: Any, mend: Callable[[Any], None]) -> None:
        self._loader, self._mend = loader, mend

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._mend(module)


def _aws_data(loaders: Any) -> None:
    import json

    prefix = f"{_archive.archive}/botocore/data/"

    def load_data_with_path(self: Any, name: str) -> tuple[Any, str]:
        try:
            return json.loads(_archive.get_data(f"{prefix}{name}.json")), prefix
        except OSError:
            raise loaders.DataNotFoundError(data_path=name) from None

    def list_available_services(self: Any, type_name: str) -> list[str]:
        return sorted(_layout.AWS_SERVICES)

    def list_api_versions(self: Any, service_name: str, type_name: str) -> list[str]:
        try:
            return list(_layout.AWS_SERVICES[service_name])
        except KeyError:
            raise loaders.DataNotFoundError(data_path=service_name) from None

    loaders.Loader.load_data_with_path = load_data_with_path
    loaders.Loader.load_data = lambda self, name: load_data_with_path(self, name)[0]
    loaders.Loader.list_available_services = list_available_services
    loaders.Loader.list_api_versions = list_api_versions


def _aws_authorities(httpsession: Any) -> None:
    from kine.tls import system_authorities

    httpsession.where = system_authorities


def _kerberos_extensions(package: Any) -> None:
    """Imports the modules that gssapi looks for in this package's directory, before all others."""
    for name in _layout.LIBRARIES:
        if name.startswith(f"{package.__name__}."):
            __import__(name)


def _nats_server(embedded: Any) -> None:
    embedded.binary = lambda: _file("nats-server")


_MENDED: dict[str, Callable[[Any], None]] = {
    "botocore.httpsession": _aws_authorities,
    "botocore.loaders": _aws_data,
    "gssapi.raw._enum_extensions": _kerberos_extensions,
}
if _layout.NATS:
    _MENDED["kine.drivers.nats.embedded"] = _nats_server


def main() -> None:
    sys.meta_path.insert(0, _Finder())
    from kine.cli import main as serve

    serve()
