"""Maps functions over items in threads or processes, a bounded number of items ahead."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import accumulate, islice
from queue import SimpleQueue
from typing import IO, Any, TypeVar, cast

from topwork.core.errors import TopworkError
from topwork.core.runtime import cores
from topwork.core.shared_memory import open_memory

# Items ahead for each core, if the caller does not say: enough that no core is idle.
AHEAD = 8

# The first version of pickle that can send arrays by another way than the rest.
PROTOCOL = 5

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int | None = None,
    *,
    together: int = 1,
) -> Iterator[Result]:
    """Maps a function over items in threads, in order, a bounded number of items ahead.

    Args:
        function: called in one of as many threads as there are cores.
        items: taken in the caller's thread, as they are needed.
        ahead: how many results may wait, at least 1; `AHEAD` for each core if not given.
        together: how many items a thread is given at a time, and how many more may wait. To give
            them takes a tenth of a millisecond, which is much if the function takes less than one.

    Yields:
        The results. What `function` raises is raised here, in its turn, and ends the work.
    """
    lists_ahead = max((ahead or AHEAD * cores()) // together, 1)
    with ThreadPoolExecutor(cores()) as pool:
        apply = partial(_apply_to_all, function)
        for results, error in _map(pool, apply, _divide(items, together), lists_ahead):
            yield from results
            if error is not None:
                raise error


def _apply_to_all(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> tuple[list[Result], Exception | None]:
    results: list[Result] = []
    for item in items:
        try:
            results.append(function(item))
        except Exception as error:
            return results, error
    return results, None


def _divide(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int | None = None,
    workers: int | None = None,
) -> Iterator[Result]:
    """Does what `in_threads` does, in processes: Python code runs on one core in each.

    They start as new programs that import what `function` needs and nothing of the caller's main
    module, which needs no guard as it does for `multiprocessing`.

    Args:
        function: of a module that can be imported, or a `functools.partial` of such a function;
            must pickle.
        items: taken in the caller's thread, as they are needed; must pickle.
        ahead: how many results may wait, at least 1; `AHEAD` for each worker if not given.
        workers: processes; as many as there are cores if not given.

    Yields:
        The results, which must pickle.

    Raises:
        TopworkError: a process ended before its work did.
    """
    workers = workers or cores()
    idle: SimpleQueue[_Worker] = SimpleQueue()

    def ask(item: Item) -> Result:
        worker = idle.get()
        try:
            return cast(Result, worker.ask(item))
        finally:
            idle.put(worker)

    with contextlib.ExitStack() as stack:
        pickled = pickle.dumps(function, PROTOCOL)
        for _ in range(workers):
            idle.put(stack.enter_context(contextlib.closing(_Worker(pickled))))
        # As many threads as processes: each thread waits for one process at a time.
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        yield from _map(pool, ask, items, ahead or AHEAD * workers)


def _map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    rest = iter(items)
    waiting = deque(pool.submit(function, item) for item in islice(rest, ahead))
    try:
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
    finally:
        for future in waiting:
            future.cancel()


class _Memory:
    """Shared memory in which one process leaves arrays for another.

    Pixels of 224 × 224 arrive 1.4 times as fast as through a pipe, and cost this process less.

    Args:
        file: as `open_memory` returned it.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._mapped: mmap.mmap | None = None

    def write(self, parts: Sequence[memoryview]) -> list[int]:
        """Overwrites what was written before; returns the size of each part in bytes."""
        sizes = [part.nbytes for part in parts]
        mapped = self._map(sum(sizes))
        start = 0
        for part, size in zip(parts, sizes, strict=True):
            mapped[start : start + size] = part
            start += size
        return sizes

    def read(self, sizes: Sequence[int]) -> list[bytearray]:
        """Returns copies of the parts that were written last."""
        mapped = memoryview(self._map(sum(sizes)))
        ends = list(accumulate(sizes))
        return [bytearray(mapped[end - size : end]) for size, end in zip(sizes, ends, strict=True)]

    def _map(self, size: int) -> mmap.mmap:
        if self._mapped is None or len(self._mapped) < size:
            size = max(size, mmap.PAGESIZE)
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._mapped = mmap.mmap(self._file, size)
        return self._mapped


class _Worker:
    """A process that applies a function to one item after the other.

    Args:
        function: pickled.
    """

    def __init__(self, function: bytes) -> None:
        self._file = open_memory()
        self._memory = _Memory(self._file)
        # Not `-m`, which would give this module another name than the one in pickles.
        program = f"from topwork.core.parallel import work; work({self._file})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._file,),
            # Ctrl-C is for the calling process, which ends the worker.
            process_group=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._items: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._function = function

    def ask(self, item: object) -> Any:
        """Returns the function's result for an item, or raises what it raises."""
        # Pickled first: nothing is sent of an item that does not pickle.
        message = self._function + pickle.dumps(item, PROTOCOL)
        # The function is sent once.
        self._function = b""
        try:
            self._items.write(message)
            self._items.flush()
            answer, sizes = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise TopworkError(self._describe_end()) from None
        good, result = pickle.loads(answer, buffers=self._memory.read(sizes))
        if not good:
            raise result
        return result

    def close(self) -> None:
        """Ends the process, by closing its input."""
        with contextlib.suppress(OSError):
            self._items.close()
        self._answers.close()
        os.close(self._file)
        self._process.wait()

    def _describe_end(self) -> str:
        code = self._process.wait()
        reason = f"with exit code {code}"
        if code < 0:
            reason = f"by {signal.Signals(-code).name}"
        return (
            f"a process that works ahead was ended {reason}; if memory is short, close other "
            "programs; then start again"
        )


def work(file: int) -> None:
    """Runs a worker: reads a function, then items, and writes the result of each.

    It ends when its input is closed, also because the process that started it was killed.

    Args:
        file: memory for the arrays of an answer.
    """
    # Whatever else is printed here goes to stderr, not between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    items, memory = sys.stdin.buffer, _Memory(file)
    with contextlib.suppress(EOFError, BrokenPipeError):
        function = pickle.load(items)
        while True:
            answer, arrays = _answer(function, pickle.load(items))
            pickle.dump((answer, memory.write(arrays)), answers, PROTOCOL)
            answers.flush()
    # At once, without errors about an answer that could not be written.
    os._exit(0)


def _answer(function: Callable[[Any], Any], item: object) -> tuple[bytes, list[memoryview]]:
    """Returns a flag of success with the result or the exception, pickled, and its arrays."""
    answer: tuple[bool, Any]
    try:
        answer = (True, function(item))
    except Exception as error:
        answer = (False, error)
    arrays: list[pickle.PickleBuffer] = []
    try:
        pickled = pickle.dumps(answer, PROTOCOL, buffer_callback=arrays.append)
    except Exception as error:
        reason = TypeError(f"{answer[1]!r} does not pickle: {error}")
        return pickle.dumps((False, reason)), []
    return pickled, [array.raw() for array in arrays]
