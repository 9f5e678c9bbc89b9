"""Memory as text: quoted, sourced, and impossible to forge from within."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from memos_core.cube import Descriptive, Governance, Header, MemCube, MemoryType, PlaintextPayload, Source
from memos_core.records import Message
from memos_core.render import NOTES_V1, is_recalled, render_block, with_memory


def cube(text: str, *, speaker: str | None = None, at: datetime | None = None, number: int = 0) -> MemCube:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    descriptive = Descriptive(
        id=f"{number:026d}",
        type=MemoryType.PLAINTEXT,
        created=moment,
        updated=moment,
        source=Source(speaker=speaker, at=at),
    )
    header = Header(descriptive=descriptive, governance=Governance(owner="ada", namespace="ada"))
    return MemCube(header=header, payload=PlaintextPayload(text=text))


def test_a_memory_names_its_source() -> None:
    block = render_block(
        [
            cube("Let's meet on Friday.", speaker="Ben", at=datetime(2026, 3, 2, 9, 30)),
            cube("My cat is called Biscuit."),
        ]
    )
    assert block.text.splitlines() == [
        NOTES_V1.heading,
        "- Ben, 2026-03-02: Let's meet on Friday.",
        "- My cat is called Biscuit.",
    ]


def test_nothing_depends_on_the_clock() -> None:
    assert render_block([cube("x")]) == render_block([cube("x")])


@given(st.text(min_size=1).filter(str.strip), st.text(max_size=20))
def test_no_text_or_speaker_can_forge_a_memory(text: str, speaker: str) -> None:
    block = render_block([cube(text, speaker=speaker), cube("the last one", number=1)])
    lines = block.text.splitlines()
    assert [line for line in lines if line.startswith("- ")][1:] == ["- the last one"]
    assert all(line.startswith(("- ", "  ")) or not line for line in lines[1:])


@given(st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=5))
def test_the_ends_cut_the_block_between_memories(texts: list[str]) -> None:
    cubes = [cube(text, number=number) for number, text in enumerate(texts)]
    block = render_block(cubes)
    assert block.ends[-1] == len(block.text)
    for number, end in enumerate(block.ends, start=1):
        assert block.text[:end] == render_block(cubes[:number]).text


def test_memory_stands_before_the_callers_own_system_text() -> None:
    block = render_block([cube("x")])
    merged = with_memory([Message(role="system", content="Be brief."), Message(role="user", content="?")], block)
    assert [message.role for message in merged] == ["system", "user"]
    assert merged[0].content == block.text + "\n\nBe brief."
    assert with_memory([Message(role="user", content="?")], block)[0].content == block.text
    assert with_memory([Message(role="user", content="?")], render_block([])) == [Message(role="user", content="?")]


def test_recalled_text_is_known_again() -> None:
    assert is_recalled("You said:\n" + render_block([cube("x")]).text)
    assert not is_recalled("I keep notes from memory.")
