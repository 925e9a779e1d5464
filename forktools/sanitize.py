"""Escaping of text from a repository, for safe display.

Commit messages, branch names and paths are written by the author of a pull request. Shown raw they can move
the cursor, recolour a terminal, hide letters (bidirectional overrides), start a workflow command in a CI log
or open a tag in a job summary. Every text goes through `visible` before any output format gets it; each
format then adds its own escaping.
"""

from __future__ import annotations

import json
import re
import unicodedata

# Control, format (bidi overrides, zero-width), surrogate, private, unassigned; line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# The Actions runner executes `##[command]` anywhere in a log line, and Azure Pipelines `##vso[command]`.
_RUNNER_COMMAND = re.compile(r"##(?=\w*\[)")
_MARKUP = re.compile(r"[\\`*_\[\]<>&@#|~]")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "&#64;", "#": "&#35;"}
_NOT_WORD = re.compile(r"[^0-9A-Za-z ]")

# Letters and a symbol without a visible glyph: fillers of Hangul, a Braille pattern without a dot.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800")

SUBJECT_LIMIT = 300


def decode(raw: bytes) -> str:
    """Bytes from git as text; a byte that is not UTF-8 becomes a lone surrogate, so nothing is lost."""
    return raw.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` converted to `text`."""
    return text.encode("utf-8", "surrogateescape")


def visible(text: str, limit: int | None = None) -> str:
    """`text` on one line, with every invisible character written as an escape (`\\x1b`, `\\u202e`).

    A text longer than `limit` characters is cut and ends in an ellipsis.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if not (text.isascii() and text.isprintable()):
        text = "".join(_written_out(char) for char in text)
    return _RUNNER_COMMAND.sub(r"#\\x23", text)


def has_visible_text(text: str) -> bool:
    """Whether any character is visible: a zero-width space alone is not."""
    return any(
        not char.isspace() and char not in _BLANK and unicodedata.category(char) not in _HIDDEN
        for char in text
    )


def _written_out(char: str) -> str:
    code = ord(char)
    if unicodedata.category(char) not in _HIDDEN:
        return char
    if 0xDC80 <= code <= 0xDCFF:  # a byte that `decode` could not read
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def annotation_data(text: str) -> str:
    """`text` escaped for the message of a workflow command."""
    return visible_lines(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def annotation_property(text: str) -> str:
    """`text` escaped for the value of a workflow command's property."""
    return annotation_data(text).replace(":", "%3A").replace(",", "%2C")


def markdown(text: str) -> str:
    """`text` as plain words for a Markdown page: all punctuation is written as character references."""
    return _NOT_WORD.sub(_reference, visible(text))


def markdown_words(text: str) -> str:
    """`text` as plain words for a Markdown file that is also read unrendered: escapes only characters that
    could be markup, a mention or a reference to an issue."""
    return _MARKUP.sub(lambda sign: _ENTITIES.get(sign[0], f"\\{sign[0]}"), visible(text))


def markdown_code(text: str) -> str:
    """`text` in a code span, where mentions and links are not rendered."""
    return f"<code>{markdown(text)}</code>"


def _reference(match: re.Match[str]) -> str:
    char = match[0]
    return f"&#{ord(char)};" if char.isascii() else char


def visible_lines(text: str) -> str:
    """As `visible`, line by line: for messages of several lines and for the bodies of diffs."""
    return "\n".join(visible(line) for line in text.split("\n"))


def json_text(document: object) -> str:
    """Indented JSON in ASCII; no string in it can form a runner command."""
    return _RUNNER_COMMAND.sub(r"#\\u0023", json.dumps(document, indent=2, ensure_ascii=True))
