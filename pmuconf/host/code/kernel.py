"""What a running kernel tells of itself: its symbols, its memory and its types, each opened once.

The judgement on the guard and the list of live VMs need all three. /proc/kallsyms alone has 200,000 lines, and the BTF
of a kernel has 100,000 types: a survey hands one RunningKernel to both.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, TypeVar

from pmuconf.errors import PmuconfError
from pmuconf.host.code.btf import MAX_BTF, Btf
from pmuconf.host.code.kallsyms import Kallsyms
from pmuconf.host.code.kcore import Kcore
from pmuconf.host.root import Root

__all__ = ["RunningKernel"]

_TYPES: Final = "/sys/kernel/btf/vmlinux"
_MODULE_TYPES: Final = "/sys/kernel/btf/kvm"

Source = TypeVar("Source")


class RunningKernel:
    """The kernel that the host below ``root`` runs. Close it, or use it in a ``with`` statement.

    A source is opened when it is first asked for. One that can't be opened gives the same error each time.
    """

    def __init__(self, root: Root) -> None:
        self.root = root
        self._symbols = _Once(lambda: Kallsyms(root))
        self._memory = _Once(lambda: Kcore(root))
        self._types = _Once(lambda: _read_types(root, _TYPES))
        self._module_types = _Once(
            lambda: _read_types(root, _MODULE_TYPES, self.types) if root.exists(_MODULE_TYPES) else None
        )

    @property
    def symbols(self) -> Kallsyms:
        """The symbols.

        :raises PmuconfError: they can't be read; cause no-kallsyms, kallsyms-hidden or kallsyms-broken.
        """
        return self._symbols.get()

    @property
    def memory(self) -> Kcore:
        """The memory.

        :raises PmuconfError: it can't be opened; cause no-kcore, kcore-refused, kcore-broken or not-x86.
        """
        return self._memory.get()

    @property
    def types(self) -> Btf:
        """The types of the kernel itself, by its BTF.

        :raises PmuconfError: there are none, or they are broken; cause no-offsets or btf-broken.
        """
        return self._types.get()

    @property
    def module_types(self) -> Btf | None:
        """The types of the module ``kvm`` and of the kernel; None if the kernel shows no BTF of that module.

        :raises PmuconfError: as for ``types``.
        """
        return self._module_types.get()

    def close(self) -> None:
        """Let go of what was opened."""
        self._memory.let_go(Kcore.close)

    def __enter__(self) -> RunningKernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Once(Generic[Source]):
    """Something that is opened when it is first asked for; what came of that is kept, an error too."""

    def __init__(self, opener: Callable[[], Source]) -> None:
        self._opener = opener
        self._sources: list[Source] = []
        self._error: PmuconfError | None = None

    def get(self) -> Source:
        if self._error is not None:
            raise self._error
        if not self._sources:
            try:
                self._sources.append(self._opener())
            except PmuconfError as error:
                self._error = error.bare()
                raise
        return self._sources[0]

    def let_go(self, close: Callable[[Source], object]) -> None:
        for source in self._sources:
            close(source)


def _read_types(root: Root, name: str, base: Btf | None = None) -> Btf:
    try:
        return Btf(root.read(name, MAX_BTF), base)
    except OSError as error:
        raise PmuconfError(f"no BTF: {error.strerror}", cause="no-offsets") from None
