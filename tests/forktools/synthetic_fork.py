"""A synthetic upstream and fork: two upstream releases and a line of the first with every kind of commit."""

from __future__ import annotations

from tests.forktools.git_history import History

OLD = "release/vcluster/v1.0.0"
NEW = "release/vcluster/v1.1.0"

APP = "".join(f"line {n}\n" for n in range(40))


def edited(line: int, text: str, source: str = APP) -> str:
    lines = source.splitlines(keepends=True)
    lines[line] = f"{text}\n"
    return "".join(lines)


APP_1_1 = edited(30, "upstream's thirty")


def upstream(history: History) -> History:
    """v1.0.0 and v1.1.0 on main; 1.1.0 changes line 30 of app.py and fixes bug.py."""
    history.commit("feat: the application", {"app.py": APP, "bug.py": "broken\n"})
    history.tag("v1.0.0", "main")
    history.commit("feat: thirty", {"app.py": APP_1_1})
    history.commit("fix: the bug", {"bug.py": "fixed\n"})
    history.tag("v1.1.0", "main")
    history.branch(OLD, "v1.0.0")
    return history


def picked(message: str, *shas: str) -> str:
    return message + "\n\n" + "".join(f"(cherry picked from commit {sha})\n" for sha in shas)
