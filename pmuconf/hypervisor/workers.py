"""Several requests to libvirt under way at once: threads that take items chunk by chunk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

from pmuconf.hypervisor.errors import no_threads

__all__ = ["Workers"]

_WORTH_THREADS: Final = 8
_CHUNK: Final = 16

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Workers:
    """So many threads, which are started when there is enough to do."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pool: ThreadPoolExecutor | None = None

    def map(
        self, function: Callable[[Sequence[_Item], Callable[[], bool]], Sequence[_Answer]], items: Sequence[_Item]
    ) -> Iterator[_Answer]:
        """The answers in order; the first error ends it.

        :param function: gives the answers for a chunk of the items. It may stop early if its second argument, whether
            no more answers are wanted, says so.
        :raises PmuconfError: threads-exhausted.
        """
        enough = threading.Event()
        if self._number == 1 or len(items) < _WORTH_THREADS:
            try:
                for chunk in _chunks(items, _CHUNK):
                    yield from function(chunk, enough.is_set)
            finally:
                enough.set()
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._number, thread_name_prefix="libvirt")
        futures = []
        try:
            for chunk in _chunks(items, max(1, min(_CHUNK, len(items) // (4 * self._number)))):
                try:
                    futures.append(self._pool.submit(function, chunk, enough.is_set))
                except RuntimeError as error:  # no thread can be started
                    raise no_threads() from error
            for future in futures:
                yield from future.result()
        finally:
            enough.set()
            for future in futures:
                future.cancel()
            wait(futures)

    def close(self) -> None:
        """End the threads, once what they do is over."""
        if self._pool is not None:
            self._pool.shutdown()


def _chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))
