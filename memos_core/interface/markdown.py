"""Markdown into sections: a heading and what follows it, up to the next heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Section", "sections"]

ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
SETEXT = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")
NO_PARAGRAPH = re.compile(r"\s*(?:[-*+>|]|\d+[.)]\s|$)")
MAX_SECTION_CHARS = 6000
"""A longer section is cut between its blocks; a code block stays whole."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document.

    Attributes:
        path: The headings above it and its own, outermost first; empty before the first heading.
        text: Its text, with its own heading line.
        line: Where it begins, counted from 1.
    """

    path: tuple[str, ...]
    text: str
    line: int


@dataclass(slots=True)
class Draft:
    """A section that is being read: its blocks, each with the line where it begins."""

    path: tuple[str, ...] = ()
    heading: str = ""
    line: int = 1
    blocks: list[tuple[int, list[str]]] = field(default_factory=list)

    def open_block(self, number: int) -> list[str]:
        block: list[str] = []
        self.blocks.append((number, block))
        return block

    def parts(self) -> Iterator[Section]:
        """Yield the section, in parts if it is long. A heading alone says nothing and yields none."""
        texts = [(number, "\n".join(lines).rstrip()) for number, lines in self.blocks if any(map(str.strip, lines))]
        start, held = self.line, self.heading
        size = 0
        for number, text in texts:
            if size and len(held) + len(text) > MAX_SECTION_CHARS:
                yield Section(self.path, held, start)
                start, held, size = number, "", 0
            held = f"{held}\n\n{text}" if held else text
            size += len(text)
        if size:
            yield Section(self.path, held, start)


def sections(text: str) -> Iterator[Section]:
    """Yield the sections of a Markdown text in order. What looks like a heading within a code block is none."""
    path: list[tuple[int, str]] = []
    draft = Draft()
    for number, kind, value, lines in blocks(text.split("\n")):
        if kind:
            yield from draft.parts()
            path = [*(item for item in path if item[0] < kind), (kind, value)]
            draft = Draft(tuple(title for _, title in path if title), "\n".join(lines), number)
        else:
            draft.open_block(number).extend(lines)
    yield from draft.parts()


def blocks(lines: list[str]) -> Iterator[tuple[int, int, str, list[str]]]:
    """Yield ``(line number, heading level or 0, heading text, lines)`` for each block of the document."""
    position = 0
    while position < len(lines):
        start = position
        line = lines[position]
        if not line.strip():
            position += 1
            continue
        if heading := ATX.match(line):
            position += 1
            yield start + 1, len(heading.group(1)), (heading.group(2) or "").strip(), [line]
            continue
        position = block_end(lines, position)
        block = lines[start:position]
        setext = SETEXT.match(lines[position]) if position < len(lines) else None
        if setext and len(block) == 1 and not NO_PARAGRAPH.match(line):
            position += 1
            yield start + 1, 1 if setext.group(1)[0] == "=" else 2, line.strip(), [line, lines[start + 1]]
        else:
            yield start + 1, 0, "", block


def block_end(lines: list[str], start: int) -> int:
    """Return the line after the block that begins at ``start``: a fence, front matter, or a run of lines."""
    if fence := opening_fence(lines[start]):
        return closing_line(lines, start, fence)
    if start == 0 and lines[0].rstrip() == "---" and "---" in [line.rstrip() for line in lines[1:]]:
        return [line.rstrip() for line in lines].index("---", 1) + 1
    position = start + 1
    while position < len(lines) and lines[position].strip():
        line = lines[position]
        if ATX.match(line) or opening_fence(line) or (position == start + 1 and SETEXT.match(line)):
            break
        position += 1
    return position


def opening_fence(line: str) -> str | None:
    """Return the marks that open a code block on this line, if they do."""
    match = FENCE.match(line)
    if match is None or (match.group(1)[0] == "`" and "`" in match.group(2)):
        return None
    return match.group(1)


def closing_line(lines: list[str], start: int, fence: str) -> int:
    """Return the line after the end of a code block; one that is never closed runs to the end."""
    closing = re.compile(rf" {{0,3}}{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
    for position in range(start + 1, len(lines)):
        if closing.match(lines[position]):
            return position + 1
    return len(lines)
