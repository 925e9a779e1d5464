"""Signatures and sign-offs of commits and tags, verified with the signers' file on the trunk.

Keys come from the settings' own commit, never from the user's keyring or configuration: SSH keys in the
format of `ssh-keygen -Y` (man ssh-keygen, ALLOWED SIGNERS), and OpenPGP keys as armoured blocks, GitHub's own
among them if it signs merges.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forktools import isolated_git
from forktools.commits import read_range
from forktools.git_repository import RepositoryError, run
from forktools.policy import COMMIT_UNSIGNED, SIGN_OFF_MISSING, Finding, Rule
from forktools.sanitize import decode, visible
from forktools.settings import current

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import git

    from forktools.commits import Commit

TAG_UNSIGNED = Rule(
    "tag-unsigned",
    "Where the settings ask for it, a release tag is signed with a key in {signers}, under its own name.",
    "Delete the tag and make it with `git tag --sign`; a new key comes into {signers} first.",
)

_PGP = re.compile(r"-----BEGIN PGP PUBLIC KEY BLOCK-----.*?-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL)
_GRADES = {
    "N": "it has no signature",
    "B": "its signature is wrong",
    "U": "its key is not one of the signers'",
    "E": "its key is not one of the signers'",
    "X": "its signature has expired",
    "Y": "its key has expired",
    "R": "its key was revoked",
}


def judge_commits(repo: git.Repo, commits: Sequence[Commit]) -> Iterator[Finding]:
    """The findings for those commits, all the fork's, that lack a signature or sign-off that settings
    require.

    Raises RepositoryError when the signers' file does not exist.
    """
    settings = current()
    if not (settings.require_sign_off or settings.require_signed_commits):
        return
    exempt = _exempt(repo)
    commits = [commit for commit in commits if commit.sha not in exempt]
    if settings.require_sign_off:
        written = [commit for commit in commits if not commit.is_merge]
        lacking = _without_sign_off(repo, written)
        for commit in written:
            if commit.sha in lacking:
                message = f"no Signed-off-by of its author, {visible(lacking[commit.sha])}"
                yield Finding(SIGN_OFF_MISSING, message, commit.sha, commit.subject)
    if settings.require_signed_commits and commits:
        grades = _grades(repo, commits)
        for commit in commits:
            grade = grades.get(commit.sha, "N")
            if grade != "G":
                yield Finding(COMMIT_UNSIGNED, _GRADES.get(grade, grade), commit.sha, commit.subject)


def _exempt(repo: git.Repo) -> set[str]:
    """The commits from before the settings required signatures or sign-offs."""
    named = current().signed_after
    here = [sha for sha in named if run(repo, "cat-file", "-e", f"{sha}^{{commit}}")[0] == 0]
    return {commit.sha for commit in read_range(repo, here, [])} if here else set()


def judge_tag(repo: git.Repo, tag: str) -> Iterator[Finding]:
    """The findings for an existing tag without the signature that the settings require."""
    if not current().require_signed_tags:
        return
    form = "--format=%(objecttype) %(objectname) %(tag)"
    status, listing, _ = run(repo, "for-each-ref", form, f"refs/tags/{tag}")
    kind, sha, name = (*decode(listing).strip().split(" "), "", "", "")[:3]
    if status or not sha:
        return
    if kind != "tag":
        yield Finding(TAG_UNSIGNED, f"{tag} is a lightweight tag, which cannot be signed")
    elif name != tag:
        yield Finding(TAG_UNSIGNED, f"{tag} holds the tag that was made as {visible(name)}")
    else:
        with _keys(repo) as (options, environment):
            # A key outside the signers' file has at most undefined trust.
            pinned = (*options, "-c", "gpg.minTrustLevel=fully")
            status, _, complaint = isolated_git.run(repo, *pinned, "verify-tag", sha, environment=environment)
        if status:
            signed = "signature" in complaint.lower() and "no signature" not in complaint.lower()
            why = "its key is not one of the signers', or its signature is wrong" if signed else _GRADES["N"]
            yield Finding(TAG_UNSIGNED, f"{tag}: {why}")


def _without_sign_off(repo: git.Repo, commits: Sequence[Commit]) -> dict[str, str]:
    """The authors of the commits without their sign-off, by id; git reads the trailers."""
    if not commits:
        return {}
    trailers = "%(trailers:key=Signed-off-by,valueonly,unfold,separator=%x1f)"
    listing = isolated_git.ask(
        repo,
        "log",
        "--no-walk=unsorted",
        "--stdin",
        "-z",
        f"--format=%H%x00%an%x00%ae%x00{trailers}",
        stdin="".join(f"{commit.sha}\n" for commit in commits).encode(),
    )
    fields = decode(listing).split("\0")
    return {
        sha: f"{name} <{email}>"
        for sha, name, email, given in zip(*(fields[n::4] for n in range(4)), strict=False)
        if not any(_is_s(one, name, email) for one in given.split("\x1f"))
    }


def _is_s(sign_off: str, name: str, email: str) -> bool:
    """Whether `sign_off` is the person's: by address or, for a bot, which uses its maker's, by name."""
    match = re.fullmatch(r"(.*?)\s*<([^<>]*)>", sign_off.strip())
    if match is None:
        return False
    return match[2].lower() == email.lower() or (name.endswith("[bot]") and match[1] == name)


def _grades(repo: git.Repo, commits: Sequence[Commit]) -> dict[str, str]:
    """git's verdict on each signature (`%G?`), by id."""
    with _keys(repo) as (options, environment):
        _, listing, _ = isolated_git.run(
            repo,
            *options,
            "log",
            "--no-walk=unsorted",
            "--stdin",
            "--format=%H %G?",
            stdin="".join(f"{commit.sha}\n" for commit in commits).encode(),
            environment=environment,
        )
    return dict(line.split(" ") for line in listing.decode().splitlines())


@contextmanager
def _keys(repo: git.Repo) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """git options and an environment in which the signers' keys are the only ones."""
    settings = current()
    status, content, _ = run(repo, "cat-file", "blob", f"{settings.commit}:{settings.signers}")
    if status or not settings.commit:
        raise RepositoryError(
            f"the settings ask for signatures, and {visible(settings.signers)} is not beside them",
            "Add the file with a line a signer, `ada@example.com ssh-ed25519 AAAA…`, or OpenPGP keys (`gpg "
            "--export --armor`).",
        )
    text = decode(content)
    with tempfile.TemporaryDirectory(prefix="forktools-") as place:
        home = Path(place) / "gnupg"
        home.mkdir(mode=0o700)
        (home / "gpg.conf").write_text("trust-model always\nno-auto-key-retrieve\n")
        signers = Path(place) / "allowed_signers"
        signers.write_text(_PGP.sub("", text), encoding="utf-8", errors="surrogateescape")
        if armoured := "\n".join(_PGP.findall(text)):
            _import(home, armoured)
        yield (
            ("-c", f"gpg.ssh.allowedSignersFile={signers}"),
            {"GNUPGHOME": str(home)},
        )


def _import(home: Path, armoured: str) -> None:
    command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-autostart", "--import"]
    try:
        done = subprocess.run(command, input=armoured.encode(), capture_output=True, check=False)  # noqa: S603
    except OSError as error:
        raise RepositoryError(f"gpg could not be started: {error}", "Install gpg.") from error
    if done.returncode:
        said = decode(done.stderr).strip().splitlines() or ["no message"]
        raise RepositoryError(
            f"{visible(current().signers)} has an OpenPGP key that gpg refuses: {visible(said[-1])}",
            "Export it anew: gpg --export --armor KEY.",
        )
