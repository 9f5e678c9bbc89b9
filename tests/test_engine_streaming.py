"""Tokens come one by one, stop where they should, and a cancelled request leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import pytest
import torch
from engine_parts import ask, cubes, engine
from hypothesis import given
from hypothesis import strategies as st

from memos_core.engine import GenerationOptions, HFEngine
from memos_core.engine.decode import Detokenizer, StopStrings
from memos_core.engine.sampling import Sampler, nucleus
from memos_core.errors import GenerationCancelled, InvalidInput
from memos_core.records import ReplyChunk
from memos_core.testing.models import DictActivations, tiny_tokenizer


@pytest.fixture(scope="module")
def runner():
    made = engine()
    yield made
    made.close()


# --- text -----------------------------------------------------------------------------------------------------------


def test_the_pieces_of_a_stream_make_up_the_reply(runner: HFEngine) -> None:
    request = ask("text", cubes(), max_tokens=24)
    *pieces, last = runner.stream(request)
    assert last.text == ""
    assert last.reply is not None
    assert len(pieces) > 10
    assert "".join(piece.text for piece in pieces) == last.reply.text == runner.generate(request).text
    assert last.reply.usage.completion_tokens == 24
    assert 0 < last.reply.usage.ttft_seconds < last.reply.usage.total_seconds


TOKENIZER = tiny_tokenizer()


def decode(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@given(st.text(max_size=40))
def test_streamed_text_is_the_decoded_text_and_never_half_a_character(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.add(token) for token in ids] + [detokenizer.flush()]
    assert "".join(pieces) == decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(3, 380), max_size=60))
def test_any_tokens_even_broken_bytes_come_out_whole(ids: list[int]) -> None:
    detokenizer = Detokenizer(decode)
    pieces = [detokenizer.add(token) for token in ids] + [detokenizer.flush()]
    assert "".join(pieces).replace("\ufffd", "") == decode(ids).replace("\ufffd", "")


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_a_stop_string_is_found_however_the_text_is_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    watcher = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += watcher.add(piece)
        if watcher.found:
            break
    shown += watcher.flush()
    assert all(stop not in shown for stop in stops)
    if watcher.found:
        assert any(text.startswith(shown + stop) for stop in stops)
    else:
        assert shown == text


def test_a_stop_string_across_tokens_ends_the_reply_and_is_not_part_of_it(runner: HFEngine) -> None:
    memories = cubes()
    whole = runner.generate(ask("text", memories, max_tokens=32)).text
    stop = whole[7:12]
    chunks = list(runner.stream(ask("text", memories, max_tokens=32, stop=(stop,))))
    reply = chunks[-1].reply
    assert reply is not None
    assert reply.text == whole[: whole.index(stop)] == "".join(chunk.text for chunk in chunks)
    assert reply.finish_reason == "stop"
    assert reply.usage.completion_tokens < 32


def test_the_end_of_turn_token_ends_the_reply() -> None:
    runner, request = engine(), ask("text", cubes(), max_tokens=8)
    ids = runner._loaded.prompts.build(request.messages, request.block).token_ids
    model = runner._loaded.model
    with torch.inference_mode():
        ids += (int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()),)
        second = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    model.generation_config.eos_token_id = [second, 2]
    reply = runner.generate(request)
    assert reply.finish_reason == "stop"
    assert reply.usage.completion_tokens == 1


# --- sampling -------------------------------------------------------------------------------------------------------


def test_a_seed_repeats_and_another_differs(runner: HFEngine) -> None:
    memories = cubes()
    texts = [runner.generate(ask("text", memories, temperature=1.0, seed=seed)).text for seed in (1, 1, 2, -7, 2**70)]
    assert texts[0] == texts[1] != texts[2]


def test_temperature_zero_is_the_most_likely_token_whatever_the_seed(runner: HFEngine) -> None:
    memories = cubes()
    assert len({runner.generate(ask("text", memories, seed=seed)).text for seed in (None, 1, 2)}) == 1


def test_the_nucleus_is_the_smallest_set_with_the_share() -> None:
    kept = nucleus(torch.tensor([0.1, 0.5, 0.1, 0.3]), 0.7)
    assert torch.equal(kept, torch.tensor([0.0, 0.5, 0.0, 0.3]))
    sampler = Sampler(GenerationOptions(temperature=1.0, top_p=1e-6, seed=0))
    assert {sampler.pick(torch.tensor([0.0, 3.0, 1.0])) for _ in range(20)} == {1}


@pytest.mark.parametrize(
    "options", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"stop": ("",)}]
)
def test_options_that_mean_nothing_are_refused(runner: HFEngine, options: dict) -> None:
    with pytest.raises(InvalidInput):
        runner.generate(ask("text", cubes(), **options))


# --- cancelling -----------------------------------------------------------------------------------------------------


def test_a_closed_stream_leaves_nothing_and_the_next_request_is_right(runner: HFEngine) -> None:
    memories, store = cubes(), DictActivations()
    expected = runner.generate(ask("text", memories)).text
    stream = runner.stream(ask("kv", memories, store=store, max_tokens=500))
    assert isinstance(next(stream), ReplyChunk)
    stream.close()
    assert runner.generate(ask("kv", memories, store=store)).text == expected
    assert list(store.published) == ["kv-1"]


def test_a_cancelled_request_stops_computing(runner: HFEngine) -> None:
    calls = 0
    handle = runner._loaded.model.register_forward_hook(lambda *_: count())

    def count() -> None:
        nonlocal calls
        calls += 1

    stream = runner.stream(ask("text", cubes(), max_tokens=1500))
    next(stream)
    stream.close()
    runner.generate(ask("text", cubes(), max_tokens=1))
    handle.remove()
    assert calls < 200


def test_an_error_on_the_thread_reaches_its_caller_only() -> None:
    runner = engine()
    memories = cubes()
    expected = runner.generate(ask("text", memories)).text
    handle = runner._loaded.model.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        runner.generate(ask("text", memories))
    handle.remove()
    assert runner.generate(ask("text", memories)).text == expected


def fail(*_: object) -> None:
    raise ZeroDivisionError


def test_closing_the_engine_ends_requests_under_way_and_it_starts_again() -> None:
    runner = engine()
    memories = cubes()
    stream = runner.stream(ask("text", memories, max_tokens=1500))
    next(stream)
    runner.close()
    runner.close()
    with pytest.raises(GenerationCancelled):
        list(stream)
    assert runner.generate(ask("text", memories)).text


def test_an_engine_that_nobody_holds_ends_its_thread() -> None:
    runner = engine()
    runner.generate(ask("text", cubes()))
    thread = runner._worker._thread
    gone = weakref.ref(runner)
    assert thread is not None
    assert thread.daemon
    del runner
    gc.collect()
    thread.join(timeout=5)
    assert gone() is None
    assert not thread.is_alive()


# --- concurrency ----------------------------------------------------------------------------------------------------


def test_mixed_requests_at_once_equal_the_serial_ones(runner: HFEngine) -> None:
    memories, store = cubes(), DictActivations()
    requests = [
        ask(inject, memories[:count], store=store, temperature=temperature, seed=3, max_tokens=8 + count)
        for inject in ("text", "kv", "off", "auto")
        for count in (1, 2, 3)
        for temperature in (0.0, 0.9)
    ]
    expected = [runner.generate(request).text for request in requests]
    results: dict[int, str] = {}

    def work(index: int) -> None:
        results[index] = runner.generate(requests[index]).text

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[index] for index in range(len(requests))] == expected


def test_a_short_request_does_not_wait_for_a_long_one(runner: HFEngine) -> None:
    memories = cubes()
    long = runner.stream(ask("text", memories, max_tokens=1500))
    next(long)
    assert runner.generate(ask("text", memories, max_tokens=2)).text is not None
    assert next(long).reply is None
    long.close()


async def test_the_event_loop_is_not_blocked_while_generating(runner: HFEngine) -> None:
    gaps: list[float] = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            gaps.append(time.perf_counter() - before)

    watcher = asyncio.create_task(watch())
    memories = cubes()
    replies = await asyncio.gather(*(runner.agenerate(ask("text", memories, max_tokens=60)) for _ in range(3)))
    watcher.cancel()
    assert len({reply.text for reply in replies}) == 1
    assert len(gaps) > 20
    # The machine may be busy with other things: one gap may be long, all of them may not.
    assert sorted(gaps)[int(len(gaps) * 0.95)] < 0.05


async def test_async_and_sync_give_the_same(runner: HFEngine) -> None:
    memories, store = cubes(), DictActivations()
    request = ask("kv", memories, store=store)
    chunks = [chunk async for chunk in runner.astream(request)]
    assert chunks[-1].reply is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].reply.text
    assert chunks[-1].reply.text == (await asyncio.to_thread(runner.generate, request)).text
    built = await runner.aprefill(request.block, store)
    assert built.token_count == store.published["kv-1"].token_count


async def test_a_cancelled_task_leaves_nothing_behind(runner: HFEngine) -> None:
    memories, store = cubes(), DictActivations()
    expected = (await runner.agenerate(ask("text", memories))).text
    task = asyncio.create_task(runner.agenerate(ask("kv", memories, store=store, max_tokens=1500)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not store.published
    assert (await runner.agenerate(ask("kv", memories, store=store))).text == expected


async def test_many_async_requests_share_the_engine(runner: HFEngine) -> None:
    memories = cubes()
    requests = [ask("text", memories, temperature=0.8, seed=seed % 4, max_tokens=6) for seed in range(20)]
    replies = await asyncio.gather(*(runner.agenerate(request) for request in requests))
    assert len({reply.text for reply in replies}) <= 4
    assert [reply.text for reply in replies[:4]] == [reply.text for reply in replies[4:8]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_an_engine_works_on_in_a_forked_child() -> None:
    program = """
        import os, sys, torch
        sys.path[:0] = [{tests!r}]
        torch.set_num_threads(1)
        from engine_parts import ask, cubes, engine
        runner, memories = engine(), cubes()
        text = runner.generate(ask("text", memories)).text
        child = os.fork()
        if child == 0:
            same = runner.generate(ask("text", memories)).text == text
            os._exit(0 if same else 3)
        _, status = os.waitpid(child, 0)
        assert runner.generate(ask("text", memories)).text == text
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    source = textwrap.dedent(program).format(tests=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
