"""Joins control to the kernel."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kaizen.errors import ConfigurationError
from kaizen.hooks import hookimpl
from kaizen.kernel import Kernel
from kaizen.ports import Channel, CheckpointStore
from kaizen.registry import Registry

from kaizen_control._settings import ControlSettings

if TYPE_CHECKING:
    from kaizen_control._protocol import ControlProtocol
    from kaizen_control._transport import Transport

__all__ = ["ControlPlugin"]

_LOG = logging.getLogger("kaizen")


class ControlPlugin:
    """Offers the channels `cli`, `http` and `stdio`; each is opened when it is needed."""

    Settings = ControlSettings

    def __init__(self, settings: ControlSettings) -> None:
        self._settings = settings
        self._kernel: Kernel | None = None

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Know the kernel, whose store keeps what is answered later."""
        self._kernel = kernel
        try:
            yield
        finally:
            self._kernel = None

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            Channel, "cli", self._cli, description="Asks in the terminal of this process."
        )
        registry.add(
            Channel, "http", self._http, description="Asks by a page, and by HTTP and SSE."
        )
        registry.add(
            Channel, "stdio", self._stdio, description="Asks by JSON lines on stdout."
        )

    def _cli(self) -> ControlProtocol:
        from kaizen_control._cli import CLITransport

        return self._over(CLITransport())

    def _stdio(self) -> ControlProtocol:
        from kaizen_control._stdio import StdioTransport

        return self._over(StdioTransport())

    @asynccontextmanager
    async def _http(self) -> AsyncGenerator[ControlProtocol]:
        from kaizen_control._http import HTTPTransport

        settings = self._settings
        transport = HTTPTransport(
            host=settings.http_host,
            port=settings.http_port,
            token_path=settings.http_token_file,
            allowed_hosts=settings.http_allowed_hosts,
            allowed_origins=settings.http_allowed_origins,
            detached=settings.http_detached,
        )
        store = await self._store() if settings.http_detached else None
        async with self._over(transport, store) as protocol:
            sys.stderr.write(
                f"Questions are answered at {transport.url} "
                f"with the token in {transport.token_path}\n"
            )
            yield protocol

    def _over(
        self, transport: Transport, store: CheckpointStore | None = None
    ) -> ControlProtocol:
        from kaizen_control._protocol import ControlProtocol

        interval_s = self._settings.progress_interval
        return ControlProtocol(transport, store=store, progress_interval_s=interval_s)

    async def _store(self) -> CheckpointStore:
        """Return the store that the kernel keeps runs in.

        Raises:
            ConfigurationError: There is none, and answers would be lost.
        """
        kernel = self._kernel
        name = kernel.config.checkpoint_store if kernel is not None else None
        if kernel is None or name is None:
            raise ConfigurationError(
                "http_detached of plugin 'control'",
                "lets answers come later, and no store keeps the runs until then",
                "Set `checkpoint_store` under [kaizen].",
            )
        return await kernel.get(CheckpointStore, name)  # type: ignore[type-abstract]
