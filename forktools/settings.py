"""Policy settings of a repository, with this fork's values as defaults.

A repository keeps them as `[tool.forktools]` in pyproject.toml, or at the top of `.forktools.toml` or
`.github/forktools.toml`. They are read from the commit of a branch that a pull request goes into or that the
default branch is at, never from a work tree or a pull request's head: the code under judgement does not
choose its rules. One run has one policy: `use` sets it when a repository is opened, `current` returns it.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from forktools.git_repository import RepositoryError, commit_id, references, run
from forktools.sanitize import decode, visible, visible_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import git

FILES = (".forktools.toml", ".github/forktools.toml", "pyproject.toml")
TRUNK = "trunk"  # as the value of `upstream`: the base tags are tags on this repository's own trunk

_TAG_FORM = re.compile(r"vX\.Y\.Z([.+-][A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*[.-])N")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_WORD = re.compile(r"[a-z]+")
_SCOPE = re.compile(r"[a-z0-9/_-]+")
_REF_PART = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """A repository's policy. `origin` names its source, `commit` is the id of the commit it was read from."""

    upstream: str = "https://github.com/k3s-io/kine"
    line_prefix: str = "release/vcluster/"
    trunks: tuple[str, ...] = ("master", "main")
    scope: str = "fork"
    product_types: tuple[str, ...] = ("feat", "fix", "perf", "refactor")
    tooling_types: tuple[str, ...] = ("docs", "style", "test", "build", "ci", "chore", "revert")
    allowlist: tuple[str, ...] = (
        ".github/**",
        "updatecli/**",
        "docs/**",
        "README.md",
        "CONTRIBUTING.md",
        "Dockerfile.release",
        ".golangci.json",
    )
    tag: str = "vX.Y.Z.vcluster.N"
    require_sign_off: bool = False
    require_signed_commits: bool = False
    require_signed_tags: bool = False
    signers: str = ".github/allowed_signers"
    signed_after: tuple[str, ...] = ()
    accepted: tuple[tuple[str, str], ...] = ()  # names and reasons
    # Tags with their commits, because a moved tag would exempt every commit behind it.
    released_before_records: tuple[tuple[str, str], ...] = (
        ("v0.16.3.vcluster.0", "9c4a2e1267f09ce5a82851bcd7459dc4e260669b"),
    )
    origin: str = "defaults"
    commit: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        return self.product_types + self.tooling_types

    @property
    def cuts_from_trunk(self) -> bool:
        """Whether lines are cut from tags on this repository's own trunk."""
        return self.upstream == TRUNK

    @property
    def tag_middle(self) -> str:
        """The text between vX.Y.Z and N in a release tag."""
        return self.tag.removeprefix("vX.Y.Z").removesuffix("N")


DEFAULTS = PolicySettings()
MEANINGS = {
    "upstream": "upstream's URL, or `trunk`: lines are cut from tags vX.Y.Z on this repository's trunk",
    "line-prefix": "a release line is this and vX.Y.Z",
    "trunks": "branches that carry upstream's history and the fork's tooling",
    "scope": "the scope of the fork's commits",
    "product-types": "types of product commits, which belong on lines",
    "tooling-types": "types of tooling commits",
    "allowlist": "paths that tooling commits may change on a trunk; NAME/** is everything below",
    "tag": "the form of release tags",
    "require-sign-off": "the fork's commits carry their author's Signed-off-by",
    "require-signed-commits": "the fork's commits are signed by one of the signers",
    "require-signed-tags": "release tags are signed by one of the signers",
    "signers": "file of the trunk with the signers' SSH keys, as ssh-keygen's allowed signers",
    "accepted": "tags and lines that `audit` reports no more, each with the reason",
    "signed-after": "commits; what is in their history needs neither signature nor sign-off",
    "released-before-records": "releases, with their commits, from before changes were put on record",
}

TABLES = ("accepted", "released-before-records")

_current: ContextVar[PolicySettings] = ContextVar("settings", default=DEFAULTS)


_source: ContextVar[str] = ContextVar("source", default="")


def current() -> PolicySettings:
    """The policy of this run."""
    return _current.get()


def use(settings: PolicySettings) -> None:
    """Makes `settings` the policy of this run."""
    _current.set(settings)


def read_from(revision: str) -> None:
    """Starts a run whose settings will be read at `revision`, or at the trunk if that is empty."""
    _source.set(revision)
    use(DEFAULTS)


def listed(settings: PolicySettings) -> Iterator[tuple[str, str, str]]:
    """Each setting's name, value and meaning, in words."""
    for name, meaning in MEANINGS.items():
        value = getattr(settings, name.replace("-", "_"))
        if isinstance(value, bool):
            shown = "true" if value else "false"
        elif isinstance(value, tuple):
            shown = ", ".join(one if isinstance(one, str) else ": ".join(one) for one in value)
        else:
            shown = str(value)
        yield name, shown, meaning


def settings_of(repo: git.Repo, remote: str, base_ref: str = "") -> PolicySettings:
    """The settings of a repository: at the revision given to `read_from`, else at its trunk.

    The trunk is `base_ref` if that branch's own settings call it one, else the remote's default branch, else
    `master` or `main`; a repository without any of these uses its HEAD. Raises RepositoryError when the
    settings cannot be read or are not valid.
    """
    if source := _source.get():
        return _at(repo, commit_id(repo, source, "the commit with the settings"), source)
    refs = references(repo)
    places = ("refs/remotes/" + remote + "/", "refs/heads/")
    if base := next((place + base_ref for place in places if base_ref and place + base_ref in refs), None):
        # A line's own settings do not count, so they need not be readable either.
        with contextlib.suppress(RepositoryError):
            found = _at(repo, refs[base], base)
            if found.commit and base_ref in found.trunks:
                return found
    trunks = [place + name for place in places for name in ("HEAD", *DEFAULTS.trunks)]
    trunk = next((name for name in trunks if name in refs), None)
    if trunk is not None:
        return _at(repo, refs[trunk], trunk)
    status, head, _ = run(repo, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return DEFAULTS if status else _at(repo, head.decode().strip(), "HEAD")


def differing(repo: git.Repo, commit: str) -> list[str]:
    """The names of the settings that `commit` changes. Raises RepositoryError if they become invalid."""
    theirs = _at(repo, commit, commit[:12])
    return [name for name in MEANINGS if _value(theirs, name) != _value(current(), name)]


def _value(settings: PolicySettings, name: str) -> object:
    return getattr(settings, name.replace("-", "_"))


def _at(repo: git.Repo, commit: str, name: str) -> PolicySettings:
    found = {}
    for file in FILES:
        status, content, _ = run(repo, "cat-file", "blob", f"{commit}:{file}")
        table = _table(decode(content), file) if status == 0 else None
        if table is not None:
            found[file] = table
    if len(found) > 1:
        raise RepositoryError(
            f"{_short(name)} has settings of forktools in {' and in '.join(found)}",
            "Keep them in one file.",
        )
    for file, table in found.items():
        return replace(parse(table, f"{file} of {_short(name)}"), commit=commit)
    return DEFAULTS


def _short(name: str) -> str:
    return visible(name.removeprefix("refs/remotes/").removeprefix("refs/heads/"))


def _table(text: str, file: str) -> Mapping[str, object] | None:
    """The settings table of a file; None if pyproject.toml has none."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if file == "pyproject.toml" and "tool.forktools" not in text:
            return None  # a broken pyproject.toml is not forktools' to judge
        raise RepositoryError(f"{file} is not TOML: {visible_lines(str(error))}", f"Mend {file}.") from error
    if file != "pyproject.toml":
        return document
    tool = document.get("tool")
    table = tool.get("forktools") if isinstance(tool, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise RepositoryError("tool.forktools in pyproject.toml is not a table", "Write [tool.forktools].")
    return table


def parse(table: Mapping[str, object], origin: str) -> PolicySettings:
    """Settings from a table. Raises RepositoryError with the mistake and the correction."""
    known = {
        field.name.replace("_", "-"): field
        for field in fields(PolicySettings)
        if field.name not in ("origin", "commit")
    }
    given: dict[str, object] = {}
    for name, value in table.items():
        if name not in known:
            raise RepositoryError(
                f"{origin}: there is no setting {visible(name)}", f"Settings: {', '.join(known)}."
            )
        default = getattr(DEFAULTS, known[name].name)
        given[known[name].name] = _typed(origin, name, value, default)
    settings = PolicySettings(**given, origin=origin)  # type: ignore[arg-type]
    _validate(settings, origin)
    return settings


def _typed(origin: str, name: str, value: object, default: object) -> object:
    if name == "released-before-records":
        if isinstance(value, dict) and all(
            isinstance(sha, str) and _COMMIT.fullmatch(sha) for sha in value.values()
        ):
            return tuple(value.items())
        wanted = f'a table of whole commit ids: {name} = {{"v1.2.3.vcluster.0" = "0123…"}}'
    elif name == "accepted":
        if isinstance(value, dict) and all(isinstance(why, str) and why.strip() for why in value.values()):
            return tuple(value.items())
        wanted = 'a table of reasons: accepted = {"v1.2.3.vcluster.0" = "why"}'
    elif name == "signed-after":
        if isinstance(value, list) and all(isinstance(sha, str) and _COMMIT.fullmatch(sha) for sha in value):
            return tuple(value)
        wanted = f'a list of whole commit ids: {name} = ["0123…"]'
    elif isinstance(default, bool):
        if isinstance(value, bool):
            return value
        wanted = f"true or false: {name} = true"
    elif isinstance(default, str):
        if isinstance(value, str) and value:
            return value
        wanted = f'a text: {name} = "{default}"'
    else:
        if isinstance(value, list) and value and all(isinstance(one, str) and one for one in value):
            return tuple(value)
        assert isinstance(default, tuple)
        wanted = f'a list of texts: {name} = ["{default[0]}"]'
    raise RepositoryError(
        f"{origin}: {name} is not {wanted.split(':')[0]}", f"Write {wanted.split(': ', 1)[1]}"
    )


def _validate(settings: PolicySettings, origin: str) -> None:
    def require(name: str, values: tuple[str, ...], form: Callable[[str], object], fix: str) -> None:
        if bad := next((value for value in values if not form(value)), None):
            raise RepositoryError(f'{origin}: {name} cannot be "{visible(bad)}"', fix)

    require("tag", (settings.tag,), _TAG_FORM.fullmatch, 'Write it with vX.Y.Z and N: "vX.Y.Z.vcluster.N".')
    require("scope", (settings.scope,), _SCOPE.fullmatch, 'Use small letters, digits, "/", "_", "-".')
    require("product-types", settings.product_types, _WORD.fullmatch, 'Use small letters, as "feat".')
    require("tooling-types", settings.tooling_types, _WORD.fullmatch, 'Use small letters, as "ci".')
    require("trunks", settings.trunks, _REF_PART.fullmatch, 'Give names of branches, as "main".')
    if "chore" not in settings.tooling_types:
        raise RepositoryError(
            f"{origin}: tooling-types lack chore, which `forktools replay drop` writes", 'Add "chore".'
        )
    if both := set(settings.product_types) & set(settings.tooling_types):
        raise RepositoryError(
            f"{origin}: {', '.join(sorted(both))} is a product type and a tooling type", "Choose one."
        )
    prefix = settings.line_prefix
    if not prefix.endswith("/") or not _REF_PART.fullmatch(prefix[:-1]):
        raise RepositoryError(
            f'{origin}: line-prefix cannot be "{visible(prefix)}"',
            'End it with a slash: "release/vcluster/" makes the line release/vcluster/v1.2.3.',
        )
    require(
        "allowlist",
        settings.allowlist,
        lambda path: "*" not in path.removesuffix("/**") and not {"", ".", ".."} & {*path.split("/")},
        'Give a path from the top, "docs/a.md", or everything below a directory, "docs/**".',
    )
    require(
        "upstream",
        (settings.upstream,),
        lambda url: url == TRUNK or re.fullmatch(r"(?:https?|ssh|git|file)://\S+|/\S*|\w+@[\w.-]+:\S+", url),
        'Give a URL, "https://github.com/k3s-io/kine", or "trunk".',
    )
