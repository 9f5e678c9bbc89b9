"""Files into turns, and what is wrong with a file."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memos_core.errors import InvalidFile, InvalidInput
from memos_core.interface.formats import FORMATS, SourceText, detect_format, leading_time
from memos_core.interface.ingest import read_turns
from memos_core.interface.markdown import MAX_SECTION_CHARS, sections

CONVERSATIONS = {
    "corpora": {
        "trip": [
            {"id": "D1:1", "text": "Look!", "speaker": "Ann", "session": "S1", "order": 0, "ts": "2026-01-05T09:30",
             "caption": "a photo of a lake"},
            {"id": "D1:2", "text": "Lovely.", "speaker": "Bo", "session": "S1", "order": 1,
             "ts": "2026-01-05 (Monday)"},
            {"id": "D1:3", "text": "", "speaker": "Bo", "order": 2, "ts": "", "caption": ""},
        ],
        "work": [{"id": 7, "text": "Ship it.", "speaker": ""}],
    },
    "queries": [],
}  # fmt: skip

GUIDE = """\
Preamble.

# Guide

## Install

Run this:

```sh
# not a heading

make
```

After it.

### On Windows ###

Use WSL.

Usage
=====
Go.
"""


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_plain_text_becomes_a_turn_for_each_paragraph(tmp_path: Path) -> None:
    path = write(tmp_path, "notes.txt", "One\r\nstill one.\r\n\r\n \r\nTwo.\r\n")
    entries = read_turns(path)
    assert [(e.turn.text, e.turn.ref, e.line) for e in entries] == [
        ("One\nstill one.", "notes.txt#1", 1),
        ("Two.", "notes.txt#2", 5),
    ]
    assert {(e.turn.uri, e.turn.kind, e.user) for e in entries} == {("notes.txt", "document", None)}


def test_markdown_becomes_a_turn_for_each_section_titled_by_its_path(tmp_path: Path) -> None:
    entries = read_turns(write(tmp_path, "guide", GUIDE))
    assert [(e.turn.title, e.line) for e in entries] == [
        (None, 1),
        ("Guide > Install", 5),
        ("Guide > Install > On Windows", 17),
        ("Usage", 21),
    ]
    assert "# not a heading\n\nmake\n```" in entries[1].turn.text
    assert entries[1].turn.text.startswith("## Install\n\nRun this:")


def test_a_long_section_is_cut_between_blocks_and_never_within_a_code_block() -> None:
    code = "```\n" + "x = 1\n\n" * 2000 + "```"
    text = "# Long\n\n" + "\n\n".join(["word " * 400] * 8) + "\n\n" + code + "\n\nend"
    parts = list(sections(text))
    assert len(parts) > 2
    assert {part.path for part in parts} == {("Long",)}
    assert any(code in part.text for part in parts)
    assert all(len(part.text) <= MAX_SECTION_CHARS + 10 for part in parts if code not in part.text)


def test_front_matter_tables_and_rules_are_no_headings() -> None:
    text = "---\ntitle: x\n---\n\n# A\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n\n- item\n---\n"
    assert [part.path for part in sections(text)] == [(), ("A",)]


@given(st.text(alphabet="~` \nab|>", max_size=200))
def test_no_word_of_a_text_without_headings_is_lost(text: str) -> None:
    assert sum(len(part.text.split()) for part in sections(text)) == len(text.split())


def test_lines_of_messages_keep_role_speaker_time_session_and_reference(tmp_path: Path) -> None:
    lines = [
        {"role": "user", "content": "Hi", "name": "Ada", "timestamp": 1767605400, "id": "m1", "session": "s", "x": [1]},
        {"role": "assistant", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "Ada"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"text": "A note", "speaker": "Ben", "at": "2026-01-05T09:30:00+01:00", "ref": "r"},
        {"created_at": 1767605400000, "role": "user", "content": "Bye"},
    ]
    path = write(tmp_path, "chat.jsonl", "\n\n".join(json.dumps(line) for line in lines))
    turns = [entry.turn for entry in read_turns(path)]
    assert [turn.text for turn in turns] == ["Hi", "Hello\nAda", "A note", "Bye"]
    assert [turn.speaker for turn in turns] == ["Ada", "assistant", "Ben", "user"]
    assert [turn.ref for turn in turns] == ["m1", "chat.jsonl#3", "r", "chat.jsonl#9"]
    assert [turn.session for turn in turns] == ["s", None, None, None]
    assert turns[0].at == turns[3].at == datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
    assert turns[2].at == datetime(2026, 1, 5, 8, 30, tzinfo=UTC)


def test_a_line_may_hold_a_whole_chat(tmp_path: Path) -> None:
    chat = {"session_id": "s9", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    entries = read_turns(write(tmp_path, "c.jsonl", json.dumps(chat)))
    assert [(e.turn.text, e.turn.session, e.turn.ref) for e in entries] == [
        ("a", "s9", "c.jsonl#1.1"),
        ("b", "s9", "c.jsonl#1.2"),
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_conversations_become_the_users_of_their_names(tmp_path: Path, zipped: bool) -> None:
    data = json.dumps(CONVERSATIONS, indent=1).encode()
    entries = read_turns(write(tmp_path, "talk", gzip.compress(data) if zipped else data))
    assert [(e.user, e.turn.ref, e.turn.text) for e in entries] == [
        ("trip", "D1:1", "Look! [a photo of a lake]"),
        ("trip", "D1:2", "Lovely."),
        ("work", "7", "Ship it."),
    ]
    first, second, third = (entry.turn for entry in entries)
    assert first.at == datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
    assert second.at == datetime(2026, 1, 5, tzinfo=UTC)
    assert (third.at, third.speaker, third.session) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "Just words.", "text"),
        ("a.md", "Just words.", "markdown"),
        ("a.txt", "# Title\n\nwords", "markdown"),
        ("a.sh", "ls\n# a comment\nls", "text"),
        ("a.txt", '{"role": "user", "content": "x"}\n{"role": "user", "content": "y"}', "jsonl"),
        ("a.json", '{"role": "user", "content": "x"}', "jsonl"),
        ("a.jsonl", json.dumps(CONVERSATIONS), "conversations"),
        ("a.json", json.dumps(CONVERSATIONS, indent=2), "conversations"),
        ("a.txt", "{braces} in prose", "text"),
        ("a.txt", "[1] A footnote", "text"),
    ],
)
def test_the_format_is_told_from_the_content(name: str, text: str, expected: str) -> None:
    assert detect_format(SourceText(path=name, name=name, text=text)) == expected


@pytest.mark.parametrize(
    ("name", "data", "line", "words"),
    [
        ("a.txt", b"text\x00more", None, "binary"),
        ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00", None, "binary"),
        ("a.txt", b"fine\nnot \xff fine", 2, "UTF-8"),
        ("a.txt", b"", None, "empty"),
        ("a.txt", b" \n\n", None, "empty"),
        ("a.json.gz", gzip.compress(json.dumps(CONVERSATIONS).encode())[:-12], None, "gzip"),
        ("a.gz", b"\x1f\x8bnot really", None, "gzip"),
        ("a.jsonl", b'{"role": "user", "content": "x"}\n{"role": "us', 2, "malformed JSON"),
        ("a.jsonl", b'{"role": "user", "content": "x"}\n[1, 2]', 2, "one JSON object"),
        ("a.jsonl", b'{"role": "user"}', 1, "content"),
        ("a.jsonl", b'{"role": 7.5, "content": {"a": 1}}', 1, "content"),
        ("a.jsonl", b'{"role": ["user"], "content": "x"}', 1, "role"),
        ("a.jsonl", b'{"content": [{"type": "image_url"}]}', 1, "image_url"),
        ("a.jsonl", b'{"content": "x", "at": "yesterday"}', 1, "time"),
        ("a.jsonl", b'{"content": "x", "at": true}', 1, "time"),
        ("a.jsonl", b'{"messages": {"role": "user"}}', 1, "messages"),
        ("a.jsonl", b'{"content": ""}', None, "nothing to remember"),
        ("a.json", b'{"corpora": {"a": [\n{"id": "1", "text": "x"},\n', 3, "malformed JSON"),
        ("a.json", b'{"corpora": []}', None, "corpora"),
        ("a.json", b'{"corpora": {"a": {}}}', None, "list of turns"),
        ("a.json", b'{"corpora": {"a": [{"id": "1"}]}}', None, "turn 0"),
        ("a.json", b'{"corpora": {"a": [{"text": "x"}]}}', None, "'id'"),
        ("a.json", b'{\n"other": 1}', None, "corpora"),
        ("a.json", b'{"corpora": ' + b"[" * 100_000, None, "malformed JSON"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_with_its_line(
    tmp_path: Path, name: str, data: bytes, line: int | None, words: str
) -> None:
    path = write(tmp_path, name, data)
    with pytest.raises(InvalidFile, match=words) as caught:
        read_turns(path)
    assert caught.value.path == str(path)
    if line is not None:
        assert caught.value.line == line


def test_a_missing_file_and_a_folder_are_invalid_files(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InvalidFile, match="cannot be read"):
            read_turns(path)


def test_the_format_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.md", "# Title\n\nwords")
    assert [entry.turn.text for entry in read_turns(path, format="text")] == ["# Title", "words"]
    with pytest.raises(InvalidFile, match="malformed JSON"):
        read_turns(path, format="jsonl")
    with pytest.raises(InvalidInput, match="format must be one of"):
        read_turns(path, format="docx")


@given(st.binary(max_size=300), st.sampled_from([*FORMATS, None]))
def test_any_bytes_give_turns_or_an_invalid_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, format: str | None
) -> None:
    path = write(tmp_path_factory.mktemp("any"), "file", data)
    try:
        entries = read_turns(path, format=format)
    except InvalidFile:
        return
    assert all(entry.turn.text.strip() for entry in entries)


def test_a_time_that_is_not_known_is_none() -> None:
    assert leading_time("2025-12-20 (Saturday)") == datetime(2025, 12, 20)
    assert [leading_time(value) for value in ("", None, "soon", "2025-99-99", 5)] == [None] * 5
