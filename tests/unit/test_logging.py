"""Log lines: their two formats, what is kept out of them, and that no client's input can forge one."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kine.observe.logging import Json, Plain, configure, escape, fields, redact, secrets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("kine.test")


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("kine")
    handlers, levels = list(root.handlers), (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    logging.captureWarnings(False)


def lines(form: str, *, debug: bool = False, hide: tuple[str, ...] = ()) -> io.StringIO:
    stream = io.StringIO()
    configure(form, debug=debug, hide=hide, stream=stream)
    return stream


def test_plain_line() -> None:
    stream = lines("plain")

    log.warning("slow SQL", extra=fields(name="append", seconds=1.5, error="it broke"))

    line = stream.getvalue()
    assert line.startswith('time="20')
    assert line.endswith('Z" level=warning msg="slow SQL" name=append seconds=1.5 error="it broke"\n')


def test_json_line_is_googles_structured_logging() -> None:
    stream = lines("json")

    log.error("slow SQL", extra=fields(name="append", seconds=1.5, ok=True, gone=None))

    line = json.loads(stream.getvalue())
    time = line.pop("time")
    assert line == {
        "severity": "error",
        "message": "slow SQL",
        "name": "append",
        "seconds": 1.5,
        "ok": True,
        "gone": None,
    }
    assert time.endswith("Z")


def test_field_cannot_stand_in_for_the_message() -> None:
    stream = lines("json")

    log.info("true", extra=fields(message="forged", severity="debug"))

    line = json.loads(stream.getvalue())
    assert (line["message"], line["severity"]) == ("true", "info")


def test_number_that_json_has_not_stays_readable_json() -> None:
    stream = lines("json")

    log.info("done", extra=fields(ratio=float("nan")))

    assert json.loads(stream.getvalue(), parse_constant=pytest.fail)["ratio"] == "nan"


def test_debug_is_off_unless_asked_for() -> None:
    stream = lines("plain")

    log.debug("detail")

    assert stream.getvalue() == ""
    assert not log.isEnabledFor(logging.DEBUG)


def test_debug_logs_own_details_but_not_those_of_libraries() -> None:
    stream = lines("plain", debug=True)

    log.debug("ours")
    logging.getLogger("botocore").debug("theirs")

    assert "msg=ours" in stream.getvalue()
    assert "theirs" not in stream.getvalue()


@pytest.mark.parametrize("form", ["plain", "json"])
def test_error_with_its_stack_is_one_line(form: str) -> None:
    stream = lines(form)

    try:
        raise RuntimeError("line one\nline two")
    except RuntimeError:
        log.exception("failed")

    assert stream.getvalue().count("\n") == 1
    assert "RuntimeError: line one" in stream.getvalue()


@pytest.mark.parametrize("form", [Plain(), Json()])
@given(st.text(), st.text(), st.binary())
def test_no_text_breaks_a_line(form: logging.Formatter, message: str, value: str, key: bytes) -> None:
    record = logging.LogRecord("kine", logging.INFO, "", 0, "%s", (message,), None)
    record.fields = {"value": value, "key": key}

    line = form.format(record)

    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_plain_value_cannot_forge_a_field() -> None:
    stream = lines("plain")

    log.info("put", extra=fields(key='a" level=error msg="forged\n'))

    assert stream.getvalue().endswith('msg=put key="a\\" level=error msg=\\"forged\\n"\n')


def test_escape_writes_control_characters_out() -> None:
    assert escape("a\n\x1b[31m\u2028\x85b") == "a\\n\\u001b[31m\\u2028\\u0085b"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot reach postgres://kine:hunter22@db:5432/x", "cannot reach postgres://***@db:5432/x"),
        ("postgres://kine:hunter/22@db/x", "postgres://***@db/x"),
        ("postgres://kine:hunt@er22@db/x", "postgres://***@db/x"),
        ("endpoint=postgres://kine:hunter22@db/x", "endpoint=postgres://***@db/x"),
        ("kine:hunter22@tcp(db:3306)/x", "***@tcp(db:3306)/x"),
        ("root:hunter22@unix(/run/mysqld.sock)/x", "***@unix(/run/mysqld.sock)/x"),
        ("nats://hunter22@nats:4222", "nats://***@nats:4222"),
        ("postgres://kine:hunter22://USER:PASSWORD@db/x", "postgres://***@db/x"),
        ("postgres://USER:hunter22@db/x", "postgres://***@db/x"),
        ("kine:hunter22/USER@tcp(db:3306)/x", "***@tcp(db:3306)/x"),
        ("host=db password=hunter22 user=kine", "host=db password=*** user=kine"),
        ("host=db password='hunter 22' user=kine", "host=db password=*** user=kine"),
        ('{"password": "hunter 22"}', '{"password": ***}'),
        ("?sslmode=require&sslpassword=hunter22&x=1", "?sslmode=require&sslpassword=***&x=1"),
        ("db/?Action=connect&X-Amz-Signature=hunter22&x=1", "db/?Action=connect&X-Amz-Signature=***&x=1"),
        ("X-Amz-Security-Token=hunter22", "X-Amz-Security-Token=***"),
        ("X-Amz-Credential=hunter22%2Faws4_request", "X-Amz-Credential=***"),
        ("Authorization: Bearer hunter22", "Authorization: ***"),
        ("aws_secret_access_key = hunter22", "aws_secret_access_key = ***"),
        ("seed SUAGMJH5XLGZKQQWAWKRZJIGMOU4HPFUYLXJMXOO5NLFEO2OOQJ5LPRDPM!", "seed ***!"),
        ("token eyJhbGciOiJIUzI1NiJ9.hunter22.x", "token ***"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nhunter22\n-----END EC PRIVATE KEY-----\nafter",
            "-----BEGIN PRIVATE KEY----- ***\nafter",
        ),
        ("-----BEGIN PRIVATE KEY-----\nhunter22", "-----BEGIN PRIVATE KEY----- ***"),
    ],
)
def test_secret_is_masked(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "listening on 127.0.0.1:2379",
        "cannot open ./db/state.db: disk full",
        'password authentication failed for user "kine"',
        "/registry/secrets/default/token",
        "compacted to 1000 in 1.2s",
        "add the password to the endpoint: postgres://USER:PASSWORD@HOST/NAME",
        "mysql://USER:PASSWORD@tcp(HOST:PORT)/NAME",
        "USER@tcp(HOST:PORT)/NAME",
        "nats://USER:PASSWORD@HOST:PORT?dataDir=... or nats://TOKEN@HOST:PORT",
    ],
)
def test_what_is_no_secret_is_left(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "part",
    ["token", "a.", 'password="', "eyJ-", "x://", "a:b@", "-----BEGIN PRIVATE KEY-----", "'", "A.b@tcp("],
)
def test_no_text_makes_redaction_slow(part: str) -> None:
    redact(f"token@ {part * (2_000_000 // len(part))}")  # quadratic time exceeds the test's timeout


def test_very_long_text_is_cut() -> None:
    assert len(redact("x" * 1_000_000)) < 20_000


def test_secrets_of_an_endpoint_are_itself_and_its_password_in_both_spellings() -> None:
    endpoint = "mysql://root:p%40ss word@tcp(db)/x"

    assert set(secrets_of(endpoint)) == {endpoint, "p%40ss word", "p@ss word"}


@pytest.mark.parametrize("endpoint", ["litestream://", "postgres://", "nats://,nats://", "mysql:"])
def test_scheme_alone_is_no_secret(endpoint: str) -> None:
    """Otherwise messages that list the schemes would be garbled."""
    assert secrets_of(endpoint) == []


def test_path_without_a_scheme_is_no_secret() -> None:
    assert secrets_of("/data/state.db") == []


def test_known_secret_is_masked_in_message_field_and_stack() -> None:
    stream = lines("plain", hide=("hunter22",))

    try:
        raise ValueError("in the stack: hunter22")
    except ValueError:
        log.exception("in the message: hunter22", extra=fields(where="in a field: hunter22"))

    assert "hunter22" not in stream.getvalue()


@pytest.mark.parametrize("hide", [("hunter", "hunter22-tail"), ("hunter22-tail", "hunter")])
def test_a_secret_that_begins_another_leaves_nothing_of_it(hide: tuple[str, ...]) -> None:
    stream = lines("plain", hide=hide)

    log.warning("it was hunter22-tail", extra=fields(where="hunter22-tail, hunter"))

    assert "hunter" not in stream.getvalue()
    assert "tail" not in stream.getvalue()


def test_passwords_of_several_addresses_are_masked_whichever_begins_another() -> None:
    endpoint = "nats://kine:hunter@one:4222,nats://kine:hunter22-tail@two:4222"

    shown = redact("login with hunter22-tail, then hunter", secrets_of(endpoint))

    assert shown == "login with ***, then ***"


def test_field_named_as_a_secret_is_masked_whatever_it_holds() -> None:
    stream = lines("plain")

    log.info("login", extra=fields(password="hunter 22 and more"))

    assert "hunter" not in stream.getvalue()
    assert "more" not in stream.getvalue()
