"""Coverage-guided fuzzing: `python -m tests.fuzz --minutes 60`, or one target: `--target hpack`.

Each target gets its share of the time in a separate process. Inputs that reach new code go into its corpus.
An input that raises is kept next to the corpus, as `crash-…`, and ends the run with exit code 1: once the
fault is fixed, the input belongs in the corpus.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 4096  # bytes of an input

PROGRAM = """
import sys
import atheris
with atheris.instrument_imports(include=["kine", "tests.fuzz.targets"]):
    from tests.fuzz.targets import TARGETS
target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, target)
atheris.Fuzz()
"""


def main(
    target: Annotated[list[str] | None, typer.Option(help="Repeatable. Default: all.")] = None,
    minutes: Annotated[float, typer.Option(help="Over all targets.")] = 1.0,
    corpus: Annotated[
        Path | None, typer.Option(help="Where new inputs go. Default: a directory that is left at the end.")
    ] = None,
) -> None:
    """Looks for inputs that raise. Needs atheris, which has wheels for Linux on x86-64."""
    try:
        import atheris  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        typer.echo("fuzzing is left out: there is no atheris for this Python; make .venv/.test", err=True)
        return
    from tests.fuzz.targets import TARGETS

    chosen = target or list(TARGETS)
    failed = [name for name in chosen if not fuzz(name, int(minutes * 60 / len(chosen)), corpus)]
    if failed:
        typer.echo(f"found something in {', '.join(failed)}: see crash-* above", err=True)
        raise typer.Exit(1)


def fuzz(name: str, seconds: int, corpus: Path | None) -> bool:
    kept = CORPUS / name
    found = (corpus or Path.cwd() / ".fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    ran = subprocess.run(
        [
            sys.executable, "-c", PROGRAM, name, f"-max_total_time={max(1, seconds)}", f"-max_len={LONGEST}",
            "-timeout=30", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0",
            f"-artifact_prefix={found.parent}/{name}-", str(found), str(kept),
        ],
        cwd=Path(__file__).parents[2],
        check=False,
    )  # fmt: skip
    typer.echo(f"{name}: {seconds} s, exit code {ran.returncode}", err=True)
    return ran.returncode == 0


if __name__ == "__main__":
    typer.run(main)
