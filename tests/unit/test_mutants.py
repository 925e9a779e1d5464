"""The mutants that `make mutants` makes, the tests it chooses, and the page that shows the score."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import __main__ as program
from tests.mutants.coverage_map import Map
from tests.mutants.coverage_map import Test as Recorded
from tests.mutants.mutant_trial import chosen, every, ordered, package_of, sample
from tests.mutants.mutation_operators import mutants

SOURCE = '''"""A module."""

LIMIT = 10


def first(rows, least=0):
    """A function."""
    if not rows or rows[0] < least:
        raise ValueError(f"{len(rows) + 1} rows")
    log.info("rows %d", 1)
    total = 0
    for row in rows:
        if row is None:
            continue
        total += row
        rows.append(max(row, total))
    return send(total, rows) and True
'''


def made(tmp_path: Path, source: str = SOURCE) -> dict[str, str]:
    (tmp_path / "module.py").write_text(source)
    found = mutants(tmp_path, "module.py")
    for mutant in found:
        compile(mutant.applied(source.encode()), "module.py", "exec")
    return {f"{mutant.line} {mutant.kind}: {mutant.before}": mutant.after for mutant in found}


def test_the_faults_of_a_module(tmp_path: Path) -> None:
    assert made(tmp_path) == {
        "8 boolean operator: not rows or rows[0] < least": "(not rows) and (rows[0] < least)",
        "8 not dropped: not rows": "(rows)",
        "8 condition negated: not rows or rows[0] < least": "not (not rows or rows[0] < least)",
        "8 comparison: rows[0] < least": "rows[0] <= least",
        "8 index: rows[0]": "rows[-1]",
        '9 raise dropped: raise ValueError(f"{len(rows) + 1} rows")': "pass",
        "11 constant: 0": "1",
        "13 comparison: row is None": "row is not None",
        "14 continue dropped: continue": "pass",
        "15 assignment dropped: total += row": "pass",
        "16 call dropped: rows.append(max(row, total))": "pass",
        "16 name: max(row, total)": "min(row, total)",
        "17 boolean operator: send(total, rows) and True": "(send(total, rows)) or (True)",
        "17 arguments swapped: send(total, rows)": "send(rows, total)",
        "17 constant: True": "False",
    }


def test_texts_are_replaced_at_their_bytes(tmp_path: Path) -> None:
    source = 'def f(a):\n    return "ü" == a\n'
    (tmp_path / "module.py").write_text(source)
    [mutant] = mutants(tmp_path, "module.py")
    assert mutant.applied(source.encode()).decode() == 'def f(a):\n    return "ü" != a\n'
    assert mutant.name == 'module.py::f: "ü" == a -> "ü" != a'


def test_a_sample_is_the_same_for_a_seed_and_of_every_package() -> None:
    there = every(program.ROOT)
    found = sample(there, 100, 7)
    assert found == sample(there, 100, 7)
    assert found != sample(there, 100, 8)
    assert {package_of(mutant.file) for mutant in found} == set(program.PACKAGES)
    assert len({(mutant.file, mutant.line) for mutant in found}) == len(found)
    assert 95 <= len(found) <= 105


def recorded() -> Map:
    tests = [Recorded("a", 1.0, False, 10), Recorded("b", 1.0, False, 10), Recorded("c", 1.0, True, 10)]
    source = "def f():\n    one()\n    two()\n\n\ndef g():\n    three()\n"
    return Map(tests, {"module.py": {2: [0], 3: [0, 1], 7: [2]}}, {"module.py": source})


@pytest.mark.parametrize(
    ("source", "line", "function", "names"),
    [
        (recorded().sources["module.py"], 3, "f", ["a", "b"]),
        ("import os\n\n" + recorded().sources["module.py"], 5, "f", ["a", "b"]),
        ("def f():\n    one()\n    else_()\n    two()\n", 3, "f", ["a", "b"]),
        ("def f():\n    one()\n    else_()\n    two()\n", 2, "f", ["a"]),
        ("def h():\n    one_more()\n", 2, "h", []),
    ],
    ids=["the line itself", "moved down", "a new line: its function's", "above a new line", "a new function"],
)
def test_the_tests_of_a_line(source: str, line: int, function: str, names: list[str]) -> None:
    assert sorted(test.name for test in recorded().tests_of("module.py", source, line, function)) == names


def test_a_record_is_read_as_it_was_saved(tmp_path: Path) -> None:
    recorded().save(tmp_path / "map.json")
    assert Map.load(tmp_path / "map.json") == recorded()


def test_of_each_function_one_test_comes_before_the_next_of_any() -> None:
    tests = [
        Recorded(f"{name}[{number}]", 1.0, False, lines)
        for name, lines in (("x", 5), ("y", 90))
        for number in (1, 2)
    ]
    assert [test.name for test in ordered(tests)] == ["x[1]", "y[1]", "x[2]", "y[2]"]


def test_slow_tests_come_last_and_time_is_bounded() -> None:
    tests = [
        Recorded("slow", 1.0, True, 1),
        Recorded("long", 30.0, False, 1),
        Recorded("quick", 1.0, False, 1),
    ]
    assert [test.name for test in chosen(tests, 5.0)] == ["quick", "slow"]
    assert [test.name for test in chosen(tests[1:2], 5.0)] == ["long"], "one at least"


def test_the_page_has_the_last_results() -> None:
    assert program.block() in program.PAGE.read_text()


def test_equivalent_faults_have_a_reason() -> None:
    assert all(" -> " in name and reason.strip() for name, reason in program.equivalent().items())
