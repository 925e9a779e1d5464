"""A failed test is repeated alone, unless its one failure is a proof."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rerun_failures import LIMIT, main

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = """
from tests.rerun_failures import Failures

def pytest_configure(config):
    config.pluginmanager.register(Failures(config))
"""
ONCE = """
from pathlib import Path

def test_once():
    mark = Path("ran")
    ran = mark.exists()
    mark.touch()
    assert ran, "the first time"
"""
pytestmark = pytest.mark.slow

PYTEST = [sys.executable, "-m", "pytest", "-o", f"pythonpath={ROOT}", "-o", "markers=decisive"]


def run(root: Path, test: str, *, folder: str = "tests/unit", workers: int = 0) -> int:
    """Runs a test file, and then its repetitions; returns the second's exit code."""
    (root / "conftest.py").write_text(CONFTEST)
    (root / folder).mkdir(parents=True)
    (root / folder / "test_it.py").write_text(test)
    subprocess.run([*PYTEST, "-n", str(workers)], cwd=root, check=False, capture_output=True)
    return main(root, [*PYTEST, "-p", "no:cacheprovider"])


@pytest.mark.parametrize("workers", [0, 1])
def test_what_passes_alone_is_flaky_and_shown(tmp_path, capsys, workers):
    assert run(tmp_path, ONCE, workers=workers) == 0

    shown = capsys.readouterr().out
    assert "flaky: tests/unit/test_it.py::test_once" in shown
    assert "the first time" in shown
    assert "1 passed" in shown


def test_what_fails_again_fails_the_run(tmp_path, capsys):
    assert run(tmp_path, "def test_it():\n    assert False") == 1
    assert "failed twice: tests/unit/test_it.py::test_it" in capsys.readouterr().out


@pytest.mark.parametrize(("folder", "workers"), [("tests/faults", 1), ("tests/forktools", 0)])
def test_durability_and_verdicts_are_never_repeated(tmp_path, capsys, folder, workers):
    assert run(tmp_path, ONCE, folder=folder, workers=workers) == 1
    assert "one failure is a proof" in capsys.readouterr().err


def test_a_marked_test_is_never_repeated(tmp_path, capsys):
    assert run(tmp_path, "import pytest\npytestmark = pytest.mark.decisive\n" + ONCE) == 1
    assert "one failure is a proof" in capsys.readouterr().err


def test_what_fails_at_the_end_of_the_run_is_never_repeated(tmp_path, capsys):
    leak = "import pytest\n@pytest.fixture\ndef end():\n    yield\n    assert False\ndef test_it(end): pass"
    assert run(tmp_path, leak) == 1
    assert "one failure is a proof" in capsys.readouterr().err


def test_many_failures_are_no_chance(tmp_path, capsys):
    many = f"import pytest\n@pytest.mark.parametrize('n', range({LIMIT + 1}))\ndef test_it(n): assert False"
    assert run(tmp_path, many) == 1
    assert "more than" in capsys.readouterr().err


def test_an_error_of_collection_is_never_repeated(tmp_path, capsys):
    assert run(tmp_path, "import nothing_of_that_name") == 1
    assert "exit code 2" in capsys.readouterr().err


def test_no_run_is_no_success(tmp_path, capsys):
    assert main(tmp_path, PYTEST) == 1
    assert "no record" in capsys.readouterr().err
