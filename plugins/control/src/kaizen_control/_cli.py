"""A transport to whoever sits at the terminal of this process."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from kaizen.ports import PendingRequest

from kaizen_control._company import company
from kaizen_control._messages import (
    AnswerMessage,
    ClosedMessage,
    Outgoing,
    ProgressMessage,
    Received,
    RefusedMessage,
    RequestMessage,
    as_json,
)
from kaizen_control._showing import MIN_WIDTH, rendered, visible
from kaizen_control._terminal import MAX_LINE_BYTES, Terminal
from kaizen_control._transport import TransportClosedError

__all__ = ["CLITransport", "user_name"]

MAX_TOLD = 20
MAX_HERE_BYTES = 16 * 1024
_YES, _NO, _ALWAYS = ("y", "yes"), ("n", "no"), ("a", "always")


class CLITransport:
    """Asks in the terminal, one question after the other.

    Everything about an approval is shown; what does not fit on the screen is shown page by
    page, and then has to be approved by a whole word. Ctrl+C and Ctrl+D refuse. Where there
    is no terminal, questions are refused at once.

    Args:
        source: The descriptor of the terminal to read; by default that of stdin.
        sink: The descriptor of the terminal to write; by default that of stderr or stdout.
        principal: Who sits there, for the log; by default the user of this process.
    """

    detached = False

    def __init__(
        self,
        source: int | None = None,
        sink: int | None = None,
        *,
        principal: str | None = None,
    ) -> None:
        self._descriptors = source, sink
        self._principal = user_name() if principal is None else principal
        self._queue: dict[str, PendingRequest] = {}
        self._told: deque[str] = deque(maxlen=MAX_TOLD)
        self._received: deque[Received] = deque()
        self._news = anyio.Event()
        self._answered = anyio.Event()
        self._shown: _Shown | None = None
        self._dead = ""

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Be open."""
        self._queue.clear()
        self._told.clear()
        self._received.clear()
        self._dead = ""
        async with company() as tasks:
            tasks.start_soon(self._attend)
            yield

    async def send(self, message: Outgoing) -> None:
        """Take a message; a question waits for its turn."""
        if self._dead:
            raise TransportClosedError(self._dead)
        shown = self._shown
        if isinstance(message, RequestMessage):
            Terminal.find(*self._descriptors)
            self._queue[message.id] = message.request
        elif isinstance(message, ProgressMessage):
            self._told.append(_progress(message))
        elif isinstance(message, ClosedMessage):
            self._queue.pop(message.id, None)
            if shown is not None and shown.request.id == message.id:
                shown.close(message.why)
        elif shown is not None and shown.request.id == message.id:
            shown.refuse(message)
        self._news.set()

    async def receive(self) -> Received:
        """Wait for an answer."""
        while not self._received:
            if self._dead:
                raise TransportClosedError(self._dead)
            self._answered = anyio.Event()
            await self._answered.wait()
        return self._received.popleft()

    async def _attend(self) -> None:
        """Show what there is to show, until the terminal is gone."""
        try:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                await self._tell()
                while self._queue:
                    await self._show(self._queue.pop(next(iter(self._queue))))
                    await self._tell()
        except TransportClosedError as error:
            self._dead = str(error)
            self._answered.set()

    async def _tell(self) -> None:
        """Write what progress was reported while nobody was asked anything."""
        while self._told:
            with suppress(TransportClosedError):  # without a terminal nobody is told
                await Terminal.find(*self._descriptors).write(f"{self._told.popleft()}\n")
                continue
            self._told.clear()

    async def _show(self, request: PendingRequest) -> None:
        """Ask until an answer is taken, or none is wanted any more."""
        try:
            terminal = Terminal.find(*self._descriptors)
        except TransportClosedError:  # there was one when the question came
            self._give(_message(request, declined=True))
            return
        shown = self._shown = _Shown(request)
        try:
            with shown.scope:
                long = await _present(terminal, request)
                while True:
                    if long is None:
                        answer = _message(request, declined=True)
                    else:
                        answer = await _asked(terminal, request, long=long)
                    self._give(answer)
                    reason = await shown.verdict()
                    await terminal.write(f"Not taken: {visible(reason)}\n")
        finally:
            self._shown = None
        if shown.why in ("expired", "withdrawn"):
            await terminal.write(f"\n(This was {shown.why}.)\n")

    def _give(self, answer: AnswerMessage) -> None:
        self._received.append(Received(answer=answer, principal=self._principal))
        self._answered.set()


class _Shown:
    """The question that is on the screen."""

    def __init__(self, request: PendingRequest) -> None:
        self.request = request
        self.scope = anyio.CancelScope()
        self.why = ""
        self._reason = ""
        self._decided = anyio.Event()

    def close(self, why: str) -> None:
        """Stop asking."""
        self.why = why
        self.scope.cancel()

    def refuse(self, message: RefusedMessage) -> None:
        """Say that the answer was not taken."""
        self._reason = message.reason
        self._decided.set()

    async def verdict(self) -> str:
        """Wait until the answer was refused, and return why."""
        await self._decided.wait()
        self._decided = anyio.Event()
        return self._reason


async def _present(terminal: Terminal, request: PendingRequest) -> bool | None:
    """Show a request, page by page if need be.

    Returns:
        Whether it was too long to be seen at once, as it always is where the terminal is
        tiny, or nobody knows how large it is; `None` for Ctrl+C and Ctrl+D.
    """
    width, page, fits = _page(*terminal.size())
    lines = await _lines(request, width)
    pages = -(-len(lines) // page)
    for number in range(pages):
        part = lines[number * page : (number + 1) * page]
        await terminal.write("\n" + "".join(f"{line}\n" for line in part))
        if number < pages - 1:
            turned = await terminal.ask(f"-- {number + 1} of {pages}: Enter for more -- ")
            if turned is None:
                return None
    return pages > 1 or not fits


def _page(width: int, height: int) -> tuple[int, int, bool]:
    """Return the width to write in, the lines of a page, and whether a prompt fits."""
    if width <= 0 or height <= 0:
        return 79, 20, False
    lines = height - 4
    if width > MIN_WIDTH:
        return width - 1, max(1, lines), lines > 1
    return MIN_WIDTH, max(1, lines // -(-MIN_WIDTH // width)), False


async def _lines(request: PendingRequest, width: int) -> list[str]:
    """Return what is to be shown; what is large is made in a thread."""
    show = partial(rendered, request, width=width)
    if len(as_json(RequestMessage.of(request))) <= MAX_HERE_BYTES:
        return show()
    return await anyio.to_thread.run_sync(show)


async def _asked(
    terminal: Terminal, request: PendingRequest, *, long: bool
) -> AnswerMessage:
    """Ask until there is something that could be an answer."""
    while True:
        approval = request.kind == "approval"
        prompt = _approval_prompt(request, long=long) if approval else _prompt(request)
        line = await terminal.ask(prompt)
        if line is None:
            return _message(request, declined=True)
        if len(line.encode()) >= MAX_LINE_BYTES:
            await terminal.write("That is too long for a terminal.\n")
            continue
        if approval:
            found = _decision(request, line, long=long)
            if found is not None:
                return found
        elif line:
            return _message(request, text=_option(request, line))


def _message(request: PendingRequest, **fields: Any) -> AnswerMessage:
    return AnswerMessage(id=request.id, action_digest=request.action_digest, **fields)


def _prompt(request: PendingRequest) -> str:
    return "Number or text: " if request.options else "Answer: "


def _approval_prompt(request: PendingRequest, *, long: bool) -> str:
    always = " / always, by the rule above" if request.details.get("rule") else ""
    if not long:
        return f"Approve? [y]es / [n]o{always.replace('always', '[a]lways')}: "
    words = " or ".join(repr(each) for each in _words(request))
    return f"Approve all of this? Type {words} / [n]o{always}: "


def _words(request: PendingRequest) -> tuple[str, ...]:
    """Return what approves a request that is too long for one key."""
    tool = request.details.get("tool")
    plain = isinstance(tool, str) and tool.isidentifier() and tool.isascii()
    return (str(tool), "yes") if plain else ("yes",)


def _decision(request: PendingRequest, line: str, *, long: bool) -> AnswerMessage | None:
    """Return what a line decides, and what it adds as a comment; `None` if it does not."""
    word, _, comment = line.partition(" ")
    word, comment = word.rstrip(",:").lower(), comment.strip()
    if word in _NO:
        return _message(request, approved=False, text=comment)
    if request.details.get("rule") and word in (("always",) if long else _ALWAYS):
        return _message(request, approved=True, always=True, text=comment)
    if word in (_words(request) if long else _YES):
        return _message(request, approved=True, text=comment)
    return None


def _option(request: PendingRequest, line: str) -> str:
    """Return the option that a line names by its text, or by its number."""
    options = request.options
    if line in options or not (line.isascii() and line.isdecimal() and len(line) < 5):
        return line
    number = int(line)
    return options[number - 1] if 1 <= number <= len(options) else line


def _progress(message: ProgressMessage) -> str:
    told = visible(message.message)
    return told if message.percentage is None else f"{message.percentage:3.0f} % {told}"


def user_name() -> str:
    """Return the name of the user of this process, whatever the environment says."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError, AttributeError):
        return "terminal"
