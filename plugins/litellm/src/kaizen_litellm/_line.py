"""The way from one provider into litellm."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.lowlevel import EventLoopToken, cancel_shielded_checkpoint, current_token
from kaizen.errors import ConfigurationError, ModelRequestError
from kaizen.messages import ModelDelta

from kaizen_litellm._answers import Assembly, joined

if TYPE_CHECKING:
    from kaizen_litellm._call import Call
    from kaizen_litellm._clients import Clients
    from kaizen_litellm._targets import Target

__all__ = ["CLOSE_S", "Line", "Reading"]

CLOSE_S = 2.0
_END = object()
LOADED = "kaizen_litellm._loaded"


class Line:
    """Asks through litellm, from one event loop of asyncio, over connections of its own.

    litellm is imported with the first call, and in a thread, since that takes seconds. Who
    is cancelled meanwhile does not wait for it; it is there for the next call.
    """

    def __init__(self, target: Target, limits: dict[str, Any]) -> None:
        self._name = target.name
        self._route = target.routes.get("chat", "")
        self._headers = target.headers
        self._limits = limits
        self._loaded: Any = None
        self._clients: Clients | None = None
        self._token: EventLoopToken | None = None
        self._opening = anyio.Lock()
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether the clients are made, so that nothing has to be waited for."""
        return self._clients is not None

    async def open(self) -> Clients:
        """Return the clients, made on first use.

        Raises:
            ModelRequestError: It is closed; or this is no event loop in which litellm runs,
                or another one than that of the first call.
            ConfigurationError: The settings of the connections cannot be used.
        """
        if self._closed:
            raise ModelRequestError(
                self._name, "is closed", "Ask while its kernel is running."
            )
        if self._clients is None:
            self._check_loop()
            async with self._opening:
                if self._clients is None:
                    self._clients = await anyio.to_thread.run_sync(
                        self._make, abandon_on_cancel=True
                    )
                    self._token = current_token()
        if self._token != current_token():
            raise ModelRequestError(
                self._name,
                "was opened in another event loop",
                "Use one kernel for each event loop.",
            )
        return self._clients

    def _check_loop(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            return
        raise ModelRequestError(
            self._name,
            "is asked through litellm, which runs on asyncio alone",
            "Run this on asyncio, or use a provider of the plugin `direct`.",
        )

    def _make(self) -> Clients:
        self._loaded = import_module(LOADED)
        self._loaded.warm(self._route)
        from kaizen_litellm._call import Limits
        from kaizen_litellm._clients import Clients

        limits, loaded = Limits(**self._limits), self._loaded
        try:
            return Clients(limits, loaded.handler, loaded.others(), self._headers)
        except OSError:
            problem = ("ca_file", "cannot be read, or holds no certificates", "")
        except (ImportError, ValueError) as error:
            kind = type(error).__name__  # and no more: its words may hold a password
            remedy = " For socks5, install `httpx[socks]`."
            problem = ("proxy", f"cannot be used ({kind})", remedy)
        name, said, more = problem
        raise ConfigurationError(
            f"`{name}` of [plugins.litellm]", said, f"Correct it.{more}"
        )

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        clients, self._clients = self._clients, None
        if clients is not None and self._token == current_token():
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_S):
                await clients.close()

    async def ask(self, call: Call, function: str, options: dict[str, Any]) -> Any:
        """Call a function of litellm, and return what it returns."""
        from kaizen_litellm._call import CALL

        asked = getattr(self._loaded.litellm, function)
        # litellm starts no tasks for its log and its callbacks on behalf of such a call,
        # which would outlive it.
        internal = self._loaded.internal
        ours, quiet = CALL.set(call), internal.set(True)
        try:
            response = await asked(**options)
            if options.get("stream") and hasattr(response, "fetch_stream"):
                await response.fetch_stream()
            return response
        finally:
            internal.reset(quiet)
            CALL.reset(ours)
            call.leave()
            # What it starts all the same, to note how long a request took, ends at its
            # first step.
            await cancel_shielded_checkpoint()


class Reading:
    """Reads a stream chunk by chunk.

    litellm's own iterator ends every stream with tasks and threads for its log, and counts
    tokens again. So the chunks of the provider are read, where that is possible, and given
    to litellm one by one.

    Attributes:
        ended: Whether nothing follows.
    """

    def __init__(self, call: Call, response: Any, assembly: Assembly) -> None:
        self.ended = False
        self._call = call
        self._assembly = assembly
        source: Any = getattr(response, "completion_stream", None)
        self._process = getattr(response, "chunk_creator", None)
        if not hasattr(source, "__aiter__"):
            source, self._process = response, None
        self._chunks = aiter(source)

    async def more(self) -> ModelDelta | None:
        """Wait for a chunk, and return what of it is for the reader.

        Raises:
            TimeoutError: There is none until the deadline.
        """
        from kaizen_litellm._call import CALL

        ours = CALL.set(self._call)
        try:
            with anyio.fail_after(self._call.deadline - anyio.current_time()):
                raw = await anext(self._chunks, _END)
            thought = self._assembly.think(self._call.watch.thoughts())
            if raw is _END:
                self.ended = True
                return thought
            if raw is None or raw == "None":
                return thought
            return joined(thought, self._read(raw))
        finally:
            CALL.reset(ours)

    def _read(self, raw: Any) -> ModelDelta | None:
        held_back = self._assembly.note(raw)
        if self._process is None:
            return joined(held_back, self._assembly.add(raw))
        if not getattr(raw, "choices", True):
            return held_back  # it only counts, and litellm wants a choice
        try:
            chunk = self._process(chunk=raw)
        except StopIteration:
            chunk = None  # the model has ended before, and this chunk says nothing
        return joined(held_back, None if chunk is None else self._assembly.add(chunk))
