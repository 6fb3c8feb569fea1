"""Signals that a process really gets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals

import anyio
import pytest
from anyio import to_thread
from kaizen import InterruptMode, InterruptSource
from kaizen.errors import ConfigurationError, PluginError
from kaizen.kernel import Kernel
from kaizen_interrupts import InterruptManager, InterruptsPlugin, handle_signals

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
]

PROGRAM = Path(__file__).with_name("stopping.py")


class Child:
    """A process with an agent at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            pytest.fail(f"the process ended: {self._process.communicate()[1]}")
        return line.strip()

    def send(self, number: Signals) -> None:
        self._process.send_signal(number)

    def let_the_turn_end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("end\n")
        self._process.stdin.flush()

    def end(self) -> tuple[int, list[str], str]:
        """Return the exit code, what is left to read, and the errors."""
        out, err = self._process.communicate(timeout=30)
        return self._process.returncode, out.split("\n")[:-1], err


@contextmanager
def child(backend: str, turn: str, folder: Path) -> Iterator[Child]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KAIZEN_")
    }
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "error",
            "-X",
            "faulthandler",
            str(PROGRAM),
            backend,
            turn,
        ],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    # One that hangs shows where.
    ending = threading.Timer(30, process.send_signal, [Signals.SIGABRT])
    ending.start()
    try:
        yield Child(process)
    finally:
        ending.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("number", "who"),
    [
        (Signals.SIGINT, "user graceful user_requested"),
        (Signals.SIGTERM, "system graceful shutdown"),
    ],
)
async def test_the_first_signal_lets_the_turn_end_and_names_a_checkpoint(
    anyio_backend: str, tmp_path: Path, number: Signals, who: str
) -> None:
    with child(anyio_backend, "ends", tmp_path) as process:
        assert process.read_line() == "turn 1"
        process.send(number)
        assert process.read_line() == "heard"
        process.let_the_turn_end()
        code, lines, errors = process.end()

    assert (code, errors) == (0, "")
    assert lines == [who, "marked True", f"the process received {number.name}"]


async def test_the_second_signal_stops_at_once(anyio_backend: str, tmp_path: Path) -> None:
    with child(anyio_backend, "hangs", tmp_path) as process:
        assert process.read_line() == "turn 1"
        process.send(Signals.SIGTERM)
        assert process.read_line() == "heard"
        process.send(Signals.SIGINT)
        code, lines, errors = process.end()

    assert (code, errors) == (0, "")
    assert "user immediate user_requested" in lines
    assert "marked True" in lines


async def test_the_third_signal_ends_the_process(
    anyio_backend: str, tmp_path: Path
) -> None:
    with child(anyio_backend, "holds", tmp_path) as process:
        assert process.read_line() == "turn 1"
        for number in (Signals.SIGINT, Signals.SIGTERM):
            process.send(number)
            assert process.read_line() == "heard"
        process.send(Signals.SIGINT)
        code, lines, errors = process.end()

    assert (code, errors) == (-Signals.SIGINT, "")
    assert lines == []


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_signals_reach_the_manager_and_are_given_back_afterwards() -> None:
    manager = InterruptManager()
    before = signal.getsignal(Signals.SIGUSR1), signal.getsignal(Signals.SIGINT)

    async with handle_signals(manager, signals=(Signals.SIGUSR1, Signals.SIGINT)):
        signal.raise_signal(Signals.SIGUSR1)
        await until(manager.is_interrupted)
        reason = manager.get_reason()
        assert reason is not None
        assert reason.source is InterruptSource.SYSTEM
        assert reason.metadata["signal"] == "SIGUSR1"

        signal.raise_signal(Signals.SIGINT)
        await until(lambda: manager.get_reason() is not reason)
        second = manager.get_reason()
        assert second is not None
        assert second.mode is InterruptMode.IMMEDIATE
        assert second.source is InterruptSource.USER

    after = signal.getsignal(Signals.SIGUSR1), signal.getsignal(Signals.SIGINT)
    assert after == before


async def test_a_second_block_that_would_take_the_signals_from_the_first_is_refused() -> (
    None
):
    manager = InterruptManager()
    for _ in range(2):
        async with handle_signals(manager, signals=(Signals.SIGUSR1,)):
            with pytest.raises(ConfigurationError, match="add_child"):
                async with handle_signals(InterruptManager(), signals=(Signals.SIGUSR1,)):
                    pass  # pragma: no cover
            signal.raise_signal(Signals.SIGUSR1)
            await until(manager.is_interrupted)
        assert signal.getsignal(Signals.SIGUSR1) is signal.SIG_DFL
        manager.clear_interrupt()


async def test_what_is_raised_while_signals_are_handled_is_raised_as_it_is() -> None:
    problem = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with handle_signals(InterruptManager()):
            raise problem
    assert caught.value is problem


async def test_in_another_thread_it_says_that_signals_do_not_come_there(
    anyio_backend: str,
) -> None:
    async def enter() -> None:
        async with handle_signals(InterruptManager()):
            pass  # pragma: no cover

    async def start() -> None:
        async with Kernel(
            plugins=[InterruptsPlugin],
            discover=False,
            settings={"interrupts": {"handle_signals": True}},
            config_file=False,
            environ={},
        ):
            pass  # pragma: no cover

    def elsewhere() -> None:
        assert threading.current_thread() is not threading.main_thread()
        with pytest.raises(ConfigurationError, match="main thread"):
            anyio.run(enter, backend=anyio_backend)
        with pytest.raises(PluginError, match="main thread"):
            anyio.run(start, backend=anyio_backend)

    await to_thread.run_sync(elsewhere)
