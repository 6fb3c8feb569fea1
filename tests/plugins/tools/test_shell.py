"""Shell commands: what they get, what they are kept from, and that they end."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from anyio.to_thread import run_sync
from kaizen.errors import ToolError
from kaizen_tools._spawning import Spawner

pytestmark = pytest.mark.anyio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
Confined: TypeAlias = Callable[[str], dict[str, Any]]
Surroundings: TypeAlias = tuple[str, str]
QUICK = {"grace_s": 0.2}
UNCONFINED = [("asyncio", "none"), ("trio", "none")]
CONFINED = [("trio", "landlock"), ("asyncio", "bubblewrap")]

only_without_a_sandbox = pytest.mark.parametrize(
    "surroundings", UNCONFINED, indirect=True, ids=" ".join
)
only_in_a_sandbox = pytest.mark.parametrize(
    "surroundings", CONFINED, indirect=True, ids=" ".join
)


@pytest.fixture(params=[*UNCONFINED, *CONFINED], ids=" ".join)
def surroundings(request: pytest.FixtureRequest) -> Surroundings:
    """Name an event loop and a sandbox; every test runs in all of them."""
    named: Surroundings = request.param
    return named


@pytest.fixture
def anyio_backend(surroundings: Surroundings) -> str:
    return surroundings[0]


@pytest.fixture
def sandbox(surroundings: Surroundings, confined: Confined) -> dict[str, Any]:
    """Give the settings for a sandbox that protects nothing inside the roots."""
    return {**confined(surroundings[1]), "protected": []}


@pytest.fixture
def toolbox(toolbox: Toolbox, sandbox: dict[str, Any]) -> Toolbox:
    """Start a kernel with the tools alone, whose commands run in a sandbox."""

    def opened(**settings: Any) -> AbstractAsyncContextManager[Any]:
        return toolbox(**{**settings, "bash": {**sandbox, **settings.get("bash", {})}})

    return opened


def count_in(folder: Path | str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def exists(path: Path) -> bool:
    return path.exists()


def running(mark: str) -> list[int]:
    """Return the processes that have a mark in their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                found.append(int(path.parent.name))
    return found


@pytest.fixture
def mark() -> str:
    """Give a time that nobody else sleeps: what sleeps it is known by it."""
    return f"60.{secrets.randbelow(10**12):012}"


async def word_from(pipe: Path) -> str:
    """Wait until a command has written to a named pipe."""
    with anyio.fail_after(10):
        return await run_sync(
            lambda: pipe.read_text(encoding="utf-8"), abandon_on_cancel=True
        )


async def test_a_command_gives_exit_code_and_outputs(
    toolbox: Toolbox, surroundings: Surroundings
) -> None:
    async with toolbox() as call:
        result = await call("bash_command", command="echo out; echo err >&2; exit 3")
        killed = await call("bash_command", command="kill -KILL $$")

    assert result == {
        "exit_code": 3,
        "stdout": "out\n",
        "stderr": "err\n",
        "truncated": False,
        "timed_out": False,
        "sandbox": surroundings[1],
    }
    assert killed["exit_code"] == 137


async def test_a_command_runs_in_the_first_root_that_is_a_directory(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "first").mkdir()

    async with toolbox(roots=["a.txt", "first", "."]) as call:
        result = await call("bash_command", command="pwd")
    async with toolbox(roots=["a.txt"]) as call:
        with pytest.raises(ToolError, match="has no directory to run in"):
            await call("bash_command", command="pwd")

    assert result["stdout"] == f"{tmp_path}/first\n"


async def test_a_command_sees_a_clean_environment_and_a_home_of_its_own(
    toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-secret")
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("BASH_ENV", "/dev/null")

    async with toolbox(bash={"env": ["WANTED", "UNSET"]}) as call:
        result = await call(
            "bash_command", command="touch $HOME/x; stat -c %a $HOME; env -0"
        )
        names = {
            line.partition("=")[0] for line in result["stdout"][4:].split("\0") if line
        }
        home = result["stdout"].partition("HOME=")[2].partition("\0")[0]

    assert names == {"PATH", "LANG", "HOME", "TMPDIR", "WANTED", "PWD", "SHLVL", "_"}
    assert result["stdout"].startswith("700\n")
    assert "sk-secret" not in json.dumps(result)
    assert not exists(Path(home))


async def test_a_command_inherits_no_descriptor_and_no_input(toolbox: Toolbox) -> None:
    opened = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(opened, True)
    command = "for n in {0..99}; do [ -e /dev/fd/$n ] && echo $n; done; cat"
    try:
        async with toolbox() as call:
            result = await call("bash_command", command=command)
    finally:
        os.close(opened)

    assert result["stdout"] == "0\n1\n2\n"


@pytest.mark.parametrize("command", ["-c", "--version", "-x; echo -"])
async def test_a_command_is_never_an_option_of_the_shell(
    toolbox: Toolbox, command: str
) -> None:
    async with toolbox() as call:
        result = await call("bash_command", command=command)

    assert "command not found" in result["stderr"]


@pytest.mark.parametrize("command", ["a\0b", "x" * 100_001])
async def test_a_command_that_cannot_be_passed_is_explained(
    toolbox: Toolbox, command: str
) -> None:
    async with toolbox() as call:
        with pytest.raises(ToolError, match="contains a NUL or is over 100000 bytes"):
            await call("bash_command", command=command)


async def test_a_shell_that_is_missing_is_explained(toolbox: Toolbox) -> None:
    async with toolbox(bash={"shell": "/no/such/shell"}) as call:
        result = await call("bash_command", command="true")

    assert result["exit_code"] == 126
    assert "could not be started" in result["stderr"]


async def test_a_flood_is_cut_in_the_middle(toolbox: Toolbox) -> None:
    command = "echo begin; seq 200000; echo end; seq 90000 >&2"

    async with toolbox(max_output_chars=10_000) as call:
        result = await call("bash_command", command=command)

    assert result["truncated"] is True
    assert result["stdout"].startswith("begin\n1\n2\n")
    assert result["stdout"].endswith("\n200000\nend\n")
    assert "[cut: the middle of the output is not shown]" in result["stdout"]
    assert result["stderr"].endswith("\n90000\n")
    assert len(json.dumps(result, ensure_ascii=False)) <= 10_000


async def test_a_flood_without_end_stops_the_command(toolbox: Toolbox) -> None:
    async with toolbox(bash={**QUICK, "max_output_bytes": 1_000_000}) as call:
        with anyio.fail_after(20):
            result = await call("bash_command", command="yes", timeout_s=60)

    assert result["stderr"].endswith("[stopped: it wrote over 1000000 bytes]")
    assert result["truncated"] is True
    assert result["timed_out"] is False


async def test_output_that_is_no_text_is_shown_as_far_as_it_goes(toolbox: Toolbox) -> None:
    async with toolbox() as call:
        result = await call("bash_command", command=r"printf 'a\xff\x00b\x1b'")

    assert result["stdout"] == "a\ufffd\0b\x1b"


async def test_a_command_that_takes_too_long_is_ended(toolbox: Toolbox) -> None:
    async with toolbox(bash=QUICK) as call:
        with anyio.fail_after(20):
            result = await call(
                "bash_command", command="echo before; sleep 60", timeout_s=2
            )

    assert result["timed_out"] is True
    assert result["exit_code"] == 143
    assert result["stdout"] == "before\n"


async def test_the_settings_bound_the_time_that_a_model_asks_for(toolbox: Toolbox) -> None:
    async with toolbox(bash={**QUICK, "timeout_s": 0.3}) as call:
        with anyio.fail_after(20):
            result = await call("bash_command", command="sleep 60", timeout_s=9_999)

    assert result["timed_out"] is True


async def test_a_command_may_clean_up_before_it_is_killed(toolbox: Toolbox) -> None:
    command = "trap 'echo cleaned; exit 5' TERM; sleep 60 & wait"

    async with toolbox(bash={"grace_s": 10}) as call:
        with anyio.fail_after(20):
            result = await call("bash_command", command=command, timeout_s=2)

    assert (result["exit_code"], result["stdout"]) == (5, "cleaned\n")


ESCAPES = {
    "in the background": "sleep 60 & exit 0",
    "without a hangup": "nohup sleep 60 >/dev/null 2>&1 & exit 0",
    "in a session of its own": "setsid sh -c 'echo >pid; exec sleep 60' & sleep 60",
    "as a daemon": "(setsid sh -c '(exec sleep 60) &' &) ; sleep 60",
    "as a daemon without environment": (
        "(env -i setsid sh -c '(exec sleep 60) &' &); sleep 60"
    ),
    "deaf to SIGTERM": "trap '' TERM INT HUP; echo >pid; while :; do sleep 60; done",
    "stopped": "echo >pid; kill -STOP $$; sleep 60",
    "behind its supervisor's back": "kill -KILL $PPID; sleep 60",
    "its supervisor killed": "sleep 60 & kill -KILL $PPID; wait",
}


@pytest.mark.parametrize("escape", ESCAPES)
async def test_nothing_that_a_command_starts_outlives_it(
    toolbox: Toolbox, mark: str, escape: str
) -> None:
    command = ESCAPES[escape].replace("60", mark)

    async with toolbox(bash=QUICK) as call:
        with anyio.fail_after(20):
            await call("bash_command", command=command, timeout_s=0.7)
            left = running(mark)

    assert left == []


@pytest.mark.parametrize(
    "escape", ["in a session of its own", "deaf to SIGTERM", "stopped"]
)
async def test_a_command_that_is_cancelled_is_gone(
    toolbox: Toolbox, tmp_path: Path, mark: str, escape: str
) -> None:
    os.mkfifo(tmp_path / "pid")
    command = ESCAPES[escape].replace("60", mark)

    async with toolbox(bash=QUICK) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    lambda: call("bash_command", command=command, timeout_s=60)
                )
                await word_from(tmp_path / "pid")
                before = running(mark)
                tasks.cancel_scope.cancel()
            after = running(mark)
            zombies_after = zombies()

    assert before != []
    assert after == []
    assert zombies_after == []


def zombies() -> list[int]:
    """Return the children of this process that wait to be reaped."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state == b"Z":
            found.append(int(path.parent.name))
    return found


async def test_nothing_is_left_open_or_lying_about(
    toolbox: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))

    async with toolbox(bash=QUICK) as call:
        await call("bash_command", command="true")
        before = count_in("/proc/self/fd")
        for _ in range(3):
            await call(
                "bash_command",
                command="sleep 9 & mkdir -p $HOME/a/b; touch $HOME/a/c; ln -s / $HOME/a/d",
            )
            await call(
                "bash_command",
                command="mkdir -p $TMPDIR/a/b; touch $TMPDIR/a/b/c; chmod 0 $TMPDIR/a/b",
            )
            await call("bash_command", command="sleep 60", timeout_s=0.1)
            with anyio.move_on_after(0.1):
                await call("bash_command", command="sleep 60")
        after = count_in("/proc/self/fd")

    assert after == before
    assert count_in(temporary) == 0
    assert zombies() == []


# Bombs that end by themselves, whatever becomes of the supervisor: at most 63 processes,
# for 5 s, and none that multiplies after the file `fuse` is gone.
BOMBS = {
    "in its group": """
        f() {
            [ -e "$FUSE" ] || exit
            (( $1 > 0 )) || exec sleep 5
            sleep 0.02
            f $(($1 - 1)) | f $(($1 - 1)) &
            wait
        }
        f 5
    """,
    "in sessions": """
        f() {
            [ -e "$FUSE" ] || exit
            (( $1 > 0 )) || exec sleep 5
            sleep 0.02
            for _ in 1 2; do setsid bash -c "$(declare -f f); f $(($1 - 1))" & done
            wait
        }
        f 5
    """,
}


@pytest.fixture
def fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a file without which a bomb ends; its name marks all processes of the bomb."""
    path = tmp_path / "fuse"
    path.touch()
    monkeypatch.setenv("FUSE", str(path))
    yield path
    path.unlink()


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_command_that_multiplies_is_stopped(
    toolbox: Toolbox, fuse: Path, bomb: str
) -> None:
    def running() -> int:
        names = Path("/proc").glob("[0-9]*/environ")
        mark = f"FUSE={fuse}\0".encode()
        own = os.getpid()
        return sum(mark in contents(name) for name in names if name.parent.name != str(own))

    async with toolbox(bash={"processes": 30, "env": ["FUSE"]}) as call:
        with anyio.fail_after(30):
            result = await call("bash_command", command=BOMBS[bomb], timeout_s=4)

    assert result["exit_code"] != 0
    assert any(
        each in result["stderr"]
        for each in ("over 30 processes", "Resource temporarily unavailable")
    )
    assert running() == 0


async def test_a_command_that_multiplies_when_it_is_told_to_end_is_killed_at_once(
    toolbox: Toolbox,
) -> None:
    command = """
        trap 'echo told; for i in $(seq 30); do setsid sleep 4 & done; wait' TERM
        sleep 20 & wait
    """

    async with toolbox(bash={"processes": 5, "grace_s": 4}) as call:
        started = anyio.current_time()
        result = await call("bash_command", command=command, timeout_s=1)
        took_s = anyio.current_time() - started

    assert result["stdout"] == "told\n"
    assert result["exit_code"] == 137
    assert took_s < 4


async def test_what_others_run_gives_a_command_no_room_for_more_processes(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pid")
    os.mkfifo(tmp_path / "go")
    command = "echo $$ >pid; cat go; for i in $(seq 20); do sleep 4 & done; wait"
    ended = threading.Event()
    others = [threading.Thread(target=ended.wait) for _ in range(40)]
    for each in others:
        each.start()
    results: list[dict[str, Any]] = []

    async def run(call: Any) -> None:
        results.append(await call("bash_command", command=command))

    async with toolbox(bash={"processes": 5}) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, call)
                try:
                    await word_from(tmp_path / "pid")
                finally:
                    ended.set()
                    for each in others:
                        each.join()
                await run_sync((tmp_path / "go").write_text, "go\n")

    assert results[0]["stderr"].endswith("[stopped: it had over 5 processes]")


@only_without_a_sandbox
async def test_the_limits_of_a_command_are_not_those_of_its_supervisor(
    toolbox: Toolbox,
) -> None:
    limits = {"memory_mb": 200, "file_mb": 1, "cpu_s": 1, "open_files": 20}

    async with toolbox(bash=limits) as call:
        result = await call("bash_command", command="cat /proc/$PPID/limits")

    assert result["stdout"].encode() == contents(Path("/proc/self/limits"))


@only_without_a_sandbox
async def test_a_supervisor_is_not_ended_by_a_polite_signal(toolbox: Toolbox) -> None:
    command = "kill -TERM $PPID; kill -HUP $PPID; kill -INT $PPID; sleep 0.1; echo done"

    async with toolbox() as call:
        result = await call("bash_command", command=command)

    assert (result["exit_code"], result["stdout"]) == (0, "done\n")
    assert result["stderr"] == ""


@only_without_a_sandbox
async def test_a_command_that_kills_its_supervisor_is_told_of(toolbox: Toolbox) -> None:
    async with toolbox() as call:
        result = await call("bash_command", command="kill -KILL $PPID; sleep 20")

    assert result["stderr"].endswith(
        "[the supervisor was killed: what left the session may still run]"
    )


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_command_is_limited_in_memory_file_size_and_cpu(toolbox: Toolbox) -> None:
    limits = {"memory_mb": 200, "file_mb": 1, "cpu_s": 1, "open_files": 20}
    python = f"'{sys.executable}' -c"

    async with toolbox(bash=limits) as call:
        with anyio.fail_after(60):
            memory = await call("bash_command", command=f"{python} 'bytearray(400 << 20)'")
            file = await call("bash_command", command="head -c 2000000 /dev/zero >big")
            cpu = await call("bash_command", command=f"{python} 'while True: pass'")
            shown = await call("bash_command", command="ulimit -c; ulimit -n; ulimit -f")

    assert "MemoryError" in memory["stderr"]
    assert len(contents(Path("big"))) <= 1 << 20
    assert file["exit_code"] != 0
    assert cpu["exit_code"] in (128 + signal.SIGXCPU, 137)
    assert shown["stdout"] == "0\n20\n1024\n"


async def test_commands_run_side_by_side(toolbox: Toolbox, tmp_path: Path) -> None:
    for name in ("a", "b"):
        os.mkfifo(tmp_path / name)
    results: list[str] = []

    async def run(call: Any, command: str) -> None:
        result = await call("bash_command", command=command)
        results.append(result["stdout"])

    async with toolbox() as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, call, "echo one >a; cat b")
                tasks.start_soon(run, call, "cat a; echo two >b")

    assert sorted(results) == ["one\n", "two\n"]


@only_in_a_sandbox
async def test_a_command_in_a_sandbox_cannot_end_its_supervisor(toolbox: Toolbox) -> None:
    # Who is outside of the namespaces has the number 0, which stands for one's own group.
    command = "P=$((PPID ? PPID : 1)); kill -KILL $P; kill -STOP $P; echo still"

    async with toolbox() as call:
        result = await call("bash_command", command=command)

    assert (result["exit_code"], result["stdout"]) == (0, "still\n")


async def test_commands_end_with_the_program_that_started_them(
    tmp_path: Path, sandbox: dict[str, Any], mark: str
) -> None:
    program = f"""
import anyio
from kaizen.kernel import Kernel
from kaizen.tools import Tool
from kaizen_tools import ToolsPlugin

async def main():
    options = {{"discover": False, "config_file": False, "environ": {{}}}}
    settings = {{"tools": {{"bash": {sandbox!r}}}}}
    async with Kernel(plugins=[ToolsPlugin], settings=settings, **options) as kernel:
        tool = await kernel.get(Tool, "bash_command")
        command = "setsid sh -c 'echo >pid; exec sleep {mark}' & sleep {mark}"
        await tool.invoke(tool.validate({{"command": command}}), None)

anyio.run(main)
"""
    os.mkfifo(tmp_path / "pid")
    # The program is not in its own arguments, since they have the mark.
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-"], cwd=tmp_path, stdin=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        process.stdin.write(program.encode())
        process.stdin.close()
        await word_from(tmp_path / "pid")
        watched = [os.pidfd_open(pid) for pid in running(mark)]
    finally:
        process.kill()
        process.wait()

    with anyio.fail_after(15):
        for each in watched:
            await anyio.wait_readable(each)
            os.close(each)
    assert watched != []


async def test_commands_go_on_after_the_program_that_starts_them_was_killed(
    toolbox: Toolbox,
) -> None:
    async with toolbox() as call:
        before = await call("bash_command", command="echo before")
        (spawner,) = children_of(os.getpid())
        watched = os.pidfd_open(spawner)
        os.kill(spawner, signal.SIGKILL)
        with anyio.fail_after(10):
            await anyio.wait_readable(watched)
        os.close(watched)
        after = await call("bash_command", command="echo after")

    assert (before["stdout"], after["stdout"]) == ("before\n", "after\n")
    assert children_of(os.getpid()) == []


async def test_commands_go_on_while_one_runs_whose_starter_was_killed(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pid")
    outputs = []

    async with toolbox(bash=QUICK) as call:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(
                    lambda: call("bash_command", command="echo >pid; sleep 60")
                )
                await word_from(tmp_path / "pid")
                for spawner in children_of(os.getpid()):
                    os.kill(spawner, signal.SIGKILL)
                for _ in range(3):
                    result = await call("bash_command", command="echo after")
                    outputs.append(result["stdout"])
                tasks.cancel_scope.cancel()

    assert outputs == ["after\n"] * 3


async def test_a_command_that_is_cancelled_while_it_starts_does_not_go_on(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    async with toolbox(bash={"grace_s": 5}) as call:
        await call("bash_command", command="true")
        for number in range(20):
            with anyio.move_on_after(number * 0.0006):
                await call("bash_command", command=f"sleep 0.2; touch {number}")

    assert count_in(tmp_path) == 0


@pytest.mark.parametrize("surroundings", [UNCONFINED[0]], indirect=True, ids=" ".join)
async def test_a_task_that_asyncio_cancels_starts_nothing_and_leaves_nothing(
    toolbox: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    reached, go, done = anyio.Event(), threading.Event(), threading.Event()
    start = Spawner.start

    def slow(self: Spawner, descriptors: Sequence[int]) -> socket.socket:
        anyio.from_thread.run_sync(reached.set)
        go.wait(10)
        try:
            return start(self, descriptors)
        finally:
            done.set()

    async with toolbox() as call:
        await call("bash_command", command="true")
        before = count_in("/proc/self/fd")
        with monkeypatch.context() as patched:
            patched.setattr(Spawner, "start", slow)
            task = asyncio.create_task(call("bash_command", command="touch ran"))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go.set()
            await run_sync(done.wait)
        with anyio.fail_after(5):
            # What the next command will have for itself is there already.
            while count_in("/proc/self/fd") != before or count_in(temporary) > 1:
                await anyio.lowlevel.checkpoint()
        await call("bash_command", command="true")

    assert not (tmp_path / "ran").exists()
    assert count_in(temporary) == 0


@only_without_a_sandbox
async def test_a_supervisor_sees_the_end_of_a_command_on_systems_without_pidfds() -> None:
    program = """
import os
from kaizen_tools import _processes, _supervisor

def missing(process):
    raise OSError(38, "no such system call")

os.pidfd_open = missing
ours, theirs = os.pipe()
child = os.fork() or os._exit(7)
waited = _supervisor._wait(child, ours, 100, lambda: False)
print(waited, _processes.end_all(child, 0))
"""
    words = [sys.executable, "-c", program]
    done = subprocess.run(  # noqa: ASYNC221
        words, capture_output=True, text=True, check=True, timeout=10
    )

    assert done.stdout == f"({7 << 8}, '') (0, 0)\n"


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in path.read_text(encoding="utf-8").split()]
    return found
