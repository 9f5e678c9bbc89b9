"""What the tests of both adapters share."""

import asyncio
import time
from collections.abc import Awaitable, Callable


async def longest_gap(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the longest time for which the event loop did nothing else while ``work`` ran, and how long it ran."""
    gaps = [0.0]

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watcher = asyncio.create_task(watch())
    started = time.perf_counter()
    await work()
    took = time.perf_counter() - started
    watcher.cancel()
    return max(gaps), took


async def assert_loop_stays_free(work: Callable[[], Awaitable[object]]) -> None:
    """Fail if ``work`` blocks the event loop. A busy machine may stall one run, so the best of several counts."""
    runs = []
    for _ in range(5):
        gap, took = await longest_gap(work)
        runs.append((gap, took))
        if gap < 0.05:
            break
    assert min(gap for gap, _ in runs) < 0.05, runs
    assert runs[-1][1] > 0.1, "the work is too short to tell anything"
