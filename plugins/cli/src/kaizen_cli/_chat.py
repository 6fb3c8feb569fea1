"""`kaizen chat`: a conversation on the terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType

from anyio.from_thread import BlockingPortal, start_blocking_portal
from kaizen.agent import BaseAgent
from kaizen.errors import AgentInterrupted, KaizenError, UnknownNameError
from kaizen.kernel import Kernel
from kaizen.run import Run
from kaizen.runlog import TextDelta
from kaizen.signatures import InputField, OutputField, Signature

from kaizen_cli._ask import FILE_TOOLS, file_tools_missing
from kaizen_cli._following import INTERRUPTED, interrupt, progress_for
from kaizen_cli._options import Options
from kaizen_cli._recorded import Recorded
from kaizen_cli._session import (
    Keep,
    answering,
    own_settings,
    session,
    terminal_channel,
)
from kaizen_cli._terminal import Flow, Terminal
from kaizen_cli._text import shortened

__all__ = ["Chat", "chat", "chat_agent"]

PROMPT = "> "
MAX_MESSAGE = 1_000_000
WAIT_S = 0.2
HELP = """/help   show this
/tools  list the tools that the model may use
/exit   leave, as Ctrl+D does
Ctrl+C stops the present answer. Anything else is a message."""


class Chat(Signature):
    """Talk with the user. Answer the message, in its language, as briefly as it allows."""

    history: str = InputField(desc="What was said before, oldest first.", default="")
    message: str = InputField(desc="What the user says now.")
    reply: str = OutputField(desc="What you say.")


def chat(
    options: Options,
    *,
    paths: Sequence[Path],
    provider: str | None,
    model: str,
    no_keep: bool,
) -> int:
    """Hold a conversation until the user leaves; return the exit code."""
    terminal = Terminal(options)
    with start_blocking_portal() as portal:
        keep: Keep = "never" if no_keep else "default"
        started = session(options, terminal, roots=paths, keep=keep)
        with portal.wrap_async_context_manager(started) as kernel:
            recorded = Recorded.of_now(
                "chat", paths, options, provider=provider, model=model
            )
            agent = portal.call(chat_agent, kernel, paths, provider, model)
            conversation = _Conversation(
                portal,
                agent.bind(metadata=recorded.metadata),
                terminal,
                max_history=own_settings(kernel).max_history,
            )
            with conversation.listening():
                return conversation.hold()


async def chat_agent(
    kernel: Kernel, paths: Sequence[Path], provider: str | None, model: str
) -> BaseAgent:
    """Return the agent that talks; it has the file tools if there are paths to read."""
    config = {"max_cycles": own_settings(kernel).max_cycles}
    tools = FILE_TOOLS if paths else ()
    agent = BaseAgent(config, Chat, tools=tools, kernel=kernel, name="chat")
    return await answering(agent, provider, model)


class _Conversation:
    """Reads messages in the main thread; the agent answers in the portal's."""

    def __init__(
        self,
        portal: BlockingPortal,
        agent: BaseAgent,
        terminal: Terminal,
        *,
        max_history: int,
    ) -> None:
        self._portal = portal
        self._agent = agent
        self._terminal = terminal
        self._max_history = max_history
        self._history = ""
        self._run: Run | None = None
        self._answering = False
        self._stopping = False
        self._typed = sys.stdin.isatty() and sys.stdout.isatty()

    def hold(self) -> int:
        """Answer each message; return 0, or 1 if an answer to a pipe failed."""
        if self._typed:
            with suppress(ImportError):
                import readline  # noqa: F401 - `input` edits lines with it
            self._terminal.note("/help lists what you can type. Ctrl+D ends.")
        try:
            failed = self._respond_to_all()
        except KeyboardInterrupt:  # must not pass through the portal's contexts
            return INTERRUPTED
        return 1 if failed and not self._typed else 0

    def _respond_to_all(self) -> bool:
        """Answer messages until the user leaves; say whether an answer failed."""
        failed = False
        for message in self._messages():
            if message in ("/exit", "/quit"):
                break
            if message.startswith("/"):
                self._command(message)
            else:
                failed |= not self._respond(message)
        return failed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl+C stop an answer, and mean what it always does where none is given."""
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._answering:
            raise KeyboardInterrupt
        if self._stopping:
            os._exit(INTERRUPTED)
        self._stopping = True
        if self._run is not None:
            self._portal.start_task_soon(self._stop, self._run)

    @staticmethod
    def _stop(run: Run) -> None:
        interrupt(run, immediate=True)

    def _messages(self) -> Iterator[str]:
        while True:
            try:
                line = input(PROMPT) if self._typed else sys.stdin.readline(MAX_MESSAGE)
            except KeyboardInterrupt:
                if not self._typed:
                    raise
                self._terminal.note("")
                continue
            except EOFError:
                self._terminal.note("")
                return
            if not line and not self._typed:
                return
            if line.strip():
                yield line.strip()

    def _command(self, command: str) -> None:
        if command == "/help":
            self._terminal.note(HELP)
        elif command == "/tools":
            specs = self._portal.call(self._agent.discover_tools)
            lines = [f"{each.name}  {shortened(each.description, 60)}" for each in specs]
            self._terminal.note(
                "\n".join(lines) or "None: give PATHS to let it read files."
            )
        else:
            self._terminal.note(f"There is no {command}. /help lists what there is.")

    def _respond(self, message: str) -> bool:
        """Answer one message; say whether that worked."""
        self._answering = True
        try:
            answer = self._portal.start_task_soon(self._answer, message)
            # A signal that comes just before a wait is only heard at the wait's end.
            while not wait([answer], timeout=WAIT_S).done:
                pass
            reply = answer.result()
        except AgentInterrupted:
            self._terminal.note("(stopped)")
            return True
        except Exception as error:  # noqa: BLE001 - the conversation outlives one answer
            self._complain(error)
            return False
        finally:
            self._answering = self._stopping = False
            self._run = None
        self._remember(message, reply)
        return True

    async def _answer(self, message: str) -> str:
        progress = progress_for(self._terminal, verbose=False)
        flow, written = Flow(self._terminal), False
        channel = terminal_channel(self._agent.kernel) if self._agent.kernel else None
        if channel is not None:
            channel.hidden = progress.hidden
            channel.tell = partial(progress.say, self._terminal)
        with progress:
            async with self._agent.stream(history=self._history, message=message) as run:
                self._run = run
                if self._stopping:
                    interrupt(run, immediate=True)
                try:
                    async for event in run:
                        progress.show(event)
                        if isinstance(event, TextDelta):
                            progress.__exit__(None, None, None)
                            flow.write(event.text)
                            written = True
                    result = await run.wait()
                finally:
                    flow.flush()
                    if written:
                        self._terminal.write("\n\n" if self._typed else "\n")
        reply: str = result["reply"]
        return reply

    def _remember(self, message: str, reply: str) -> None:
        """Keep what was said, from the end, each speaker's lines set in."""
        spoken = "".join(
            f"{who}: {text.strip().replace(chr(10), chr(10) + '  ')}\n"
            for who, text in (("User", message), ("You", reply))
        )
        start = max(0, len(self._history) + len(spoken) - self._max_history)
        self._history = f"{self._history}{spoken}"[start:]

    def _complain(self, error: Exception) -> None:
        if isinstance(error, UnknownNameError):
            error = file_tools_missing(error) or error
        kind = "" if isinstance(error, KaizenError) else f"{type(error).__name__}: "
        self._terminal.note(f"Error: {kind}{' '.join(str(error).split())}", style="red")
