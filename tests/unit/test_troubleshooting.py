"""docs/troubleshooting.md lists every warning and every error, each with its fix."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text()
SCRIPT = runpy.run_path(str(DOCS / "messages.py"))
MESSAGES = SCRIPT["messages"]()
TABLES = SCRIPT["quoted"](PAGE)


def test_what_is_collected_is_what_the_code_has() -> None:
    texts = {message.text for message in MESSAGES}

    assert {
        "etcdserver: unhealthy cluster",  # a table of etcd's texts
        "writing to the database failed: …",  # a log line
        "the database is full",  # a database's own code
        "--cert-file and --key-file belong together: set both, or neither",  # a refused start
    } <= texts
    assert len(texts) > 400


def test_every_warning_has_its_row() -> None:
    assert [message.text for message in MESSAGES if message.logged and message.text not in TABLES] == []


def test_every_error_names_its_fix_or_has_its_row() -> None:
    protocols = tuple(SCRIPT["PROTOCOLS"])
    lacking = [
        f"{message.module}: {message.text}"
        for message in MESSAGES
        if message.text not in TABLES
        and not SCRIPT["FIX"].search(message.text)
        and not message.module.startswith(protocols)
    ]

    assert lacking == [], "write a row into docs/troubleshooting.md"


def test_every_row_is_of_a_message_there_is() -> None:
    assert TABLES - {message.text for message in MESSAGES} == set()


def test_the_list_is_current() -> None:
    assert SCRIPT["page"](PAGE) == PAGE, "run: python docs/messages.py"
