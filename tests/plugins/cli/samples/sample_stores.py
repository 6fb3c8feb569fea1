"""Stores for the tests of the command line. What they keep lives as long as the process."""

from __future__ import annotations

from kaizen import CheckpointStore, Registry, hookimpl
from kaizen.errors import CheckpointSaveError, StorageUnavailableError
from kaizen.testing import MemoryCheckpointStore

STORE = MemoryCheckpointStore()
OTHER = MemoryCheckpointStore()


class Store:
    """Keeps runs under the name that the command line looks for."""

    name = "sqlite"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CheckpointStore, "sqlite", STORE)


class OtherStore:
    """Keeps runs under a name that has to be configured."""

    name = "other-store"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CheckpointStore, "other", OTHER)


class ClosedStore:
    """Cannot be opened."""

    name = "sqlite"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CheckpointStore, "sqlite", self._open)

    def _open(self) -> MemoryCheckpointStore:
        raise StorageUnavailableError("the \x1b[31mfile\x1b[0m", "is damaged")


class ReadOnly(MemoryCheckpointStore):
    """Can be read, and not written."""

    async def delete(self, run_id: str) -> None:
        raise CheckpointSaveError(f"run {run_id!r}", "is on a disk that cannot be written")


class ReadOnlyStore:
    """Keeps nothing."""

    name = "sqlite"

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CheckpointStore, "sqlite", ReadOnly())
