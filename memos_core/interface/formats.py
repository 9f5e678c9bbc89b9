"""Files into turns: one reader for each format, in a registry.

A format is told by what a file holds; its name only breaks ties. Every reader yields ``Entry`` records in the order of
the file, with references that are the same whenever the same file is read.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memos_core.errors import InvalidFile, InvalidInput
from memos_core.interface.markdown import sections
from memos_core.interface.reader import content_text
from memos_core.records import Turn

__all__ = ["FORMATS", "Entry", "SourceText", "detect_format", "leading_time", "load_json", "read_source"]

MAX_FILE_BYTES = 1 << 30
"""Largest file that is read, after decompression."""

GZIP_MAGIC = b"\x1f\x8b"
LOOKS_LIKE_JSON = re.compile(r'\s*(\{\s*["}]|\[\s*[\[{"\]])')
HEADING = re.compile(r"(?:\A|\n[ \t]*\n)#{1,6}[ \t]+\S")
TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?")
MILLISECONDS_FROM = 1e11
"""A number of seconds above this would lie beyond the year 5000, so it counts milliseconds."""


@dataclass(frozen=True, slots=True)
class SourceText:
    """The text of a file.

    Attributes:
        path: The file, for errors.
        name: Its last part, for references.
        text: What it holds, with ``\\n`` line ends.
    """

    path: str
    name: str
    text: str

    def error(self, message: str, line: int | None = None) -> InvalidFile:
        return InvalidFile(message, path=self.path, line=line)

    def ref(self, ordinal: int | str) -> str:
        """Return the reference of the part at ``ordinal``, for files that carry none."""
        return f"{self.name}#{ordinal}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One turn of a file.

    Attributes:
        turn: The turn.
        user: Whose memory it is, where the file tells.
        line: Where it begins, counted from 1, where lines mean something.
    """

    turn: Turn
    user: str | None = None
    line: int | None = None


def read_source(path: str | Path) -> SourceText:
    """Return the text of a UTF-8 file, gzipped or not.

    Raises:
        InvalidFile: It is absent, a folder, empty, binary, not UTF-8, or a broken gzip.
    """
    path = Path(path)
    data = read_bytes(path)
    if b"\x00" in data:
        raise InvalidFile("a binary file, not text", path=str(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidFile(f"not UTF-8 text: byte 0x{data[error.start]:02x}", path=str(path), line=line) from error
    if not text.strip():
        raise InvalidFile("the file is empty", path=str(path))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return SourceText(path=str(path), name=path.name.removesuffix(".gz"), text=text)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if it is a gzip whatever its name is."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            data = gzip.GzipFile(fileobj=raw).read(MAX_FILE_BYTES + 1) if zipped else raw.read(MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidFile(f"a truncated or damaged gzip file: {error}", path=str(path)) from error
    except OSError as error:
        raise InvalidFile(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidFile(f"holds more than {MAX_FILE_BYTES} bytes; split it", path=str(path))
    return data


def detect_format(source: SourceText) -> str:
    """Return the name of the format of a file: a key of ``FORMATS``."""
    if LOOKS_LIKE_JSON.match(source.text):
        return detect_json(source)
    markdown = source.name.lower().endswith((".md", ".markdown"))
    if markdown or HEADING.search(source.text):
        return "markdown"
    return "jsonl" if source.name.lower().endswith((".jsonl", ".ndjson")) else "text"


def detect_json(source: SourceText) -> str:
    """Tell conversations from lines of messages, also where the JSON is damaged."""
    first = source.text.lstrip().partition("\n")[0]
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        # One object over many lines, or a damaged first line: the name decides, so that the error is to the point.
        return "jsonl" if source.name.lower().endswith((".jsonl", ".ndjson")) else "conversations"
    return "conversations" if isinstance(value, dict) and "corpora" in value else "jsonl"


# Plain text


def read_text(source: SourceText) -> Iterator[Entry]:
    """Yield the paragraphs: what blank lines separate."""
    ordinal, start = 0, 0
    lines = [*source.text.split("\n"), ""]
    for number, line in enumerate(lines):
        if line.strip():
            continue
        if paragraph := "\n".join(lines[start:number]).strip():
            ordinal += 1
            turn = Turn(text=paragraph, ref=source.ref(ordinal), uri=source.name, kind="document")
            yield Entry(turn, line=start + 1)
        start = number + 1


def read_markdown(source: SourceText) -> Iterator[Entry]:
    """Yield the sections, titled by their path of headings."""
    for ordinal, section in enumerate(sections(source.text), start=1):
        title = " > ".join(section.path) or None
        turn = Turn(text=section.text, title=title, ref=source.ref(ordinal), uri=source.name, kind="document")
        yield Entry(turn, line=section.line)


# Messages, one JSON object a line


def read_messages(source: SourceText) -> Iterator[Entry]:
    """Yield chat messages in OpenAI's form, one a line or as ``{"messages": [...]}``; empty ones are passed over.

    Besides ``role`` and ``content`` (or ``text``) these are understood: ``speaker`` or ``name``; ``at``, ``timestamp``
    or ``created_at``; ``session``, ``session_id`` or ``thread_id``; ``ref`` or ``id``. Everything else is ignored.
    """
    for number, line in enumerate(source.text.split("\n"), start=1):
        if not line.strip():
            continue
        value = load_json(line, source, number)
        if not isinstance(value, dict):
            raise source.error(f"a line is one JSON object, not a {type(value).__name__}", number)
        inner = value.get("messages")
        if inner is None:
            yield from message_entry(value, source, number, source.ref(number))
            continue
        if not isinstance(inner, list) or not all(isinstance(message, dict) for message in inner):
            raise source.error("'messages' must be a list of objects", number)
        shared = {key: item for key, item in value.items() if key not in {"messages", "id", "ref"}}
        for ordinal, message in enumerate(inner, start=1):
            yield from message_entry({**shared, **message}, source, number, source.ref(f"{number}.{ordinal}"))


def message_entry(fields: Mapping[str, Any], source: SourceText, line: int, ref: str) -> Iterator[Entry]:
    """Yield the entry of one message, or none if it says nothing."""
    role = optional_text(fields, source, line, "role")
    content = fields.get("content", fields.get("text"))
    if content is None and not ("content" in fields or "text" in fields):
        raise source.error("no message: it needs 'content' (or 'text')", line)
    try:
        text = content_text(content, line)
    except InvalidInput as error:
        raise source.error(str(error), line) from error
    if not text.strip():
        return
    turn = Turn(
        text=text,
        role=role,
        speaker=optional_text(fields, source, line, "speaker", "name") or role,
        session=optional_text(fields, source, line, "session", "session_id", "thread_id"),
        at=message_time(first_of(fields, "at", "timestamp", "created_at"), source, line),
        ref=optional_text(fields, source, line, "ref", "id") or ref,
    )
    yield Entry(turn, line=line)


def first_of(fields: Mapping[str, Any], *names: str) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def optional_text(fields: Mapping[str, Any], source: SourceText, line: int | None, *names: str) -> str | None:
    """Return the first of these fields that is given; numbers count as text.

    Raises:
        InvalidFile: It is neither.
    """
    value = first_of(fields, *names)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise source.error(f"{names[0]!r} must be text, not a {type(value).__name__}", line)


def message_time(value: Any, source: SourceText, line: int) -> datetime | None:
    """Return an ISO time or a number of seconds or milliseconds since 1970 as a moment."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return datetime.fromisoformat(value)
        if isinstance(value, bool):
            raise TypeError("a truth value")
        seconds = value / 1000 if value > MILLISECONDS_FROM else value
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise source.error(f"cannot read the time {value!r}; write it in ISO 8601", line) from error


# Conversations with annotated evidence


def read_conversations(source: SourceText) -> Iterator[Entry]:
    """Yield the turns of ``{"corpora": {name: [turn, ...]}}``; each conversation is the user of that name.

    A turn has ``id``, ``text`` and optionally ``speaker``, ``session``, ``ts`` and the ``caption`` of an image that it
    showed. A turn with neither text nor caption is passed over: it holds nothing to remember.
    """
    data = load_json(source.text, source, None)
    corpora = data.get("corpora") if isinstance(data, dict) else None
    if not isinstance(corpora, dict):
        raise source.error("no conversations: it needs an object 'corpora' of lists of turns")
    for name, turns in corpora.items():
        if not isinstance(turns, list):
            raise source.error(f"conversation {name!r} must be a list of turns")
        for position, fields in enumerate(turns):
            yield from conversation_entry(name, position, fields, source)


def conversation_entry(name: str, position: int, fields: Any, source: SourceText) -> Iterator[Entry]:
    """Yield the entry of one turn of a conversation, or none if it says nothing."""
    where = f"turn {position} of conversation {name!r}"
    if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
        raise source.error(f"{where} must be an object with a 'text'")
    ref = optional_text(fields, source, None, "id")
    if ref is None:
        raise source.error(f"{where} has no 'id'")
    caption = optional_text(fields, source, None, "caption")
    text = f"{fields['text']} [{caption}]".strip() if caption else fields["text"]
    if not text.strip():
        return
    turn = Turn(
        text=text,
        speaker=optional_text(fields, source, None, "speaker"),
        session=optional_text(fields, source, None, "session"),
        at=leading_time(fields.get("ts")),
        ref=ref,
    )
    yield Entry(turn, user=name)


def leading_time(value: Any) -> datetime | None:
    """Return the ISO date or time that ``value`` begins with; None where the time is not known.

    The weekday that some sources write after the date is passed over.
    """
    match = TIME.match(value) if isinstance(value, str) else None
    try:
        return datetime.fromisoformat(match.group()) if match else None
    except ValueError:
        return None


def load_json(text: str, source: SourceText, line: int | None) -> Any:
    """Return the JSON value of ``text``.

    Raises:
        InvalidFile: It is not JSON; with the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise source.error(f"malformed JSON: {error.msg} (column {error.colno})", line or error.lineno) from error
    except (ValueError, RecursionError) as error:
        raise source.error(f"malformed JSON: {error}", line) from error


FORMATS: Mapping[str, Callable[[SourceText], Iterator[Entry]]] = {
    "text": read_text,
    "markdown": read_markdown,
    "jsonl": read_messages,
    "conversations": read_conversations,
}
"""The reader of each format, by the name that ``--format`` takes."""
