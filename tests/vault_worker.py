"""A process of its own that works on a vault; started by the tests of durability.

python vault_worker.py <root> <index> stream          adds texts for ever; prints each id after its commit
python vault_worker.py <root> <index> together        the same from eight threads, whose changes share transactions
python vault_worker.py <root> <index> serve           adds each line of its input; answers with the id
python vault_worker.py <root> <index> fill <bytes>    adds until a file reaches that size; prints the error's name
python vault_worker.py <root> <index> blob <bytes>    stores a blob that is larger than that; prints the error's name
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from memos_core.errors import MemosError
from memos_core.infrastructure.vault import MemVault, NewCube
from memos_core.testing import FakeClock, HashEmbedder
from memos_core.testing.conformance_index import Shelf


def say(word: str) -> None:
    print(word, flush=True)


def stream(shelf: Shelf) -> None:
    number = 0
    while True:
        (cube,) = shelf.add(f"text {number} " + "word " * (number % 300))
        number += 1
        if number % 7 == 0:
            shelf.search(f"text {number}")
        if number % 20 == 0:
            shelf.vault.apply_outbox()
        say(cube.id)


def together(shelf: Shelf) -> None:
    def add(thread: int) -> None:
        while True:
            cube = shelf.cube(f"text of thread {thread}", "ada", None)
            new = NewCube(cube, shelf.passages(cube), None, "test")
            shelf.vault.commit(lambda session, new=new: session.collect(new))
            os.write(1, f"{cube.id}\n".encode())  # one call: lines of two threads do not mix

    for thread in range(8):
        threading.Thread(target=add, args=(thread,)).start()


def serve(shelf: Shelf) -> None:
    say("ready")
    for line in sys.stdin:
        (cube,) = shelf.add(line.strip())
        shelf.vault.apply_outbox()
        say(cube.id)


def limit(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fill(shelf: Shelf, size: int) -> None:
    limit(size)
    try:
        while True:
            (cube,) = shelf.add("filling " * 200)
            say(cube.id)
    except MemosError as error:
        say(type(error).__name__)
    lift()
    shelf.vault.verify()
    (cube,) = shelf.add("after")
    say(cube.id)


def lift() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def blob(shelf: Shelf, size: int) -> None:
    limit(size)
    try:
        shelf.vault.blobs.put(bytes(size + 1), b"salt")
    except MemosError as error:
        say(type(error).__name__)
    lift()
    shelf.vault.verify()
    say(str(sum(1 for path in (shelf.vault.root / "blobs").rglob("*") if path.is_file())))


def main() -> None:
    root, index, task, *rest = sys.argv[1:]
    clock, embedder = FakeClock(), HashEmbedder()
    shelf = Shelf(MemVault.open(Path(root), embedder=embedder, clock=clock, index=index), clock, embedder)
    {"stream": stream, "together": together, "serve": serve, "fill": fill, "blob": blob}[task](shelf, *map(int, rest))


if __name__ == "__main__":
    main()
