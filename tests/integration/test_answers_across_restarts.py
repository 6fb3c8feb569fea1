"""A question outlives its process, and what its answer allows is done once.

On disk, with processes that end by themselves or are killed.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

import pytest

DEADLINE_S = 30.0
PROGRAM = """
    import sys
    from pathlib import Path

    import anyio
    from kaizen import (
        AgentInterrupted, BaseAgent, Kernel, ToolRefusedError, action_digest, current_run,
        hookimpl, tool,
    )
    from kaizen.testing import Call, ModelPlugin, ScriptedModel


    class Gate:
        '''Has a person approve each payment.'''

        name = "gate"

        @hookimpl
        async def wrap_tool_call(self, call, call_next):
            if call.name != "pay":
                return await call_next(call)
            run = current_run()
            given = await run.ask(
                "May the tool pay run?",
                kind="approval",
                details={"tool": call.name, "arguments": dict(call.arguments)},
                action_digest=action_digest(call, run.principal),
            )
            if not given.approved:
                raise ToolRefusedError("tool 'pay'", f"was refused: {given.text}")
            return await call_next(call.granted("gate", approval=given.request_id))


    @tool(danger="high")
    async def pay(amount: int) -> str:
        '''Pay somebody.'''
        with Path("paid.txt").open("a") as file:
            file.write(f"{amount}\\n")
        return "paid"


    async def main(backend: str, run_id: str = "") -> None:
        lines = ["done"] if run_id else [Call("pay", {"amount": 5}), "done"]
        model = ScriptedModel(*lines)
        async with Kernel(
            plugins=["control", "state", ModelPlugin(model), Gate],
            config={"default_provider": "scripted"},
            config_file="kaizen.toml",
        ) as kernel:
            agent = BaseAgent(
                signature="task -> answer", tools=[pay], kernel=kernel, agent_id="teller"
            )
            try:
                result = await (agent.resume(run_id) if run_id else agent.run(task="go"))
            except AgentInterrupted as stopped:
                print("stopped", stopped.run_id, flush=True)
            else:
                print("gave", result.answer, flush=True)


    anyio.run(main, *sys.argv[1:], backend=sys.argv[1])
"""
SETTINGS = """
    [kaizen]
    checkpoint_store = "filesystem"
    channel = "{channel}"

    [plugins.state]
    path = "runs"

    [plugins.control]
    http_detached = {detached}
"""
INBOX = """
    import sys

    import anyio
    from kaizen import Channel, Kernel


    async def main() -> None:
        plugins = ["control", "state"]
        async with Kernel(plugins=plugins, config_file="kaizen.toml") as kernel:
            await kernel.get(Channel, "http")
            await anyio.to_thread.run_sync(sys.stdin.read)


    anyio.run(main)
"""


class Place:
    """A folder in which one process after another works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "program.py").write_text(textwrap.dedent(PROGRAM), encoding="utf-8")
        (folder / "inbox.py").write_text(textwrap.dedent(INBOX), encoding="utf-8")

    def configure(self, *, channel: str = "http", detached: bool = False) -> None:
        settings = SETTINGS.format(channel=channel, detached=json.dumps(detached))
        path = self.folder / "kaizen.toml"
        path.write_text(textwrap.dedent(settings), encoding="utf-8")

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**os.environ, "XDG_RUNTIME_DIR": str(self.folder / "runtime")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.processes.append(process)
        return process

    def done(self, *command: str) -> str:
        """Run a process to its end, and return what it said."""
        process = self.start(*command)
        out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        return out

    def kaizen(self, *arguments: str) -> str:
        return self.done("-m", "kaizen_cli", "--config", "kaizen.toml", *arguments)

    def waiting(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.kaizen("requests", "list", "--json"))
        return found

    @property
    def paid(self) -> list[str]:
        path = self.folder / "paid.txt"
        return path.read_text(encoding="utf-8").split() if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def read_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


class Server:
    """The server of another process, of which it has told the address."""

    def __init__(self, told: str) -> None:
        assert told.startswith("Questions are answered at http://"), told
        words = told.split()
        self._port = urlsplit(words[4]).port
        token = Path(words[-1]).read_text(encoding="ascii").strip()
        self._headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> Any:
        return self._send("GET", path)

    def answer(self, request: dict[str, Any], **fields: Any) -> Any:
        path = f"/requests/{quote(request['id'], safe='')}/answer"
        return self._send("POST", path, json.dumps(fields))

    def _send(self, method: str, path: str, body: str | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def wait_for_a_request(self) -> dict[str, Any]:
        while not (found := self.get("/requests")["requests"]):
            pass
        (request,) = found
        assert isinstance(request, dict)
        return request


each_backend = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def test_a_process_that_does_not_wait_ends_and_another_goes_on_with_the_answer(
    place: Place,
) -> None:
    place.configure(detached=True)
    word, run_id = place.done("program.py", "asyncio").split()
    assert word == "stopped"
    (request,) = place.waiting()
    assert request["details"] == {"tool": "pay", "arguments": {"amount": 5}}
    assert request["run_path"] == [run_id]

    place.kaizen("requests", "answer", request["id"], "--approve")

    assert place.waiting() == []
    assert place.paid == []
    assert place.done("program.py", "asyncio", run_id) == "gave done\n"
    assert place.paid == ["5"]


def test_a_process_that_is_killed_while_it_waits_loses_no_question(place: Place) -> None:
    place.configure()
    process = place.start("program.py", "asyncio")
    server = Server(read_line(process.stderr))
    asked = server.wait_for_a_request()
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)

    (request,) = place.waiting()
    place.kaizen(
        "requests", "answer", request["id"], "--approve", "--digest", asked["action_digest"]
    )

    assert request == asked
    assert place.done("program.py", "asyncio", request["run_path"][0]) == "gave done\n"
    assert place.paid == ["5"]


@each_backend
def test_what_had_no_answer_is_asked_again_by_the_same_id(
    place: Place, backend: str
) -> None:
    place.configure(channel="stdio")
    first = place.start("program.py", backend)
    asked = json.loads(read_line(first.stdout))
    first.kill()
    first.wait(DEADLINE_S)

    second = place.start("program.py", backend, asked["run_path"][0])
    again = json.loads(read_line(second.stdout))
    assert second.stdin is not None
    answer = {"id": again["id"], "approved": True, "action_digest": again["action_digest"]}
    second.stdin.write(f"{json.dumps(answer)}\n")
    second.stdin.flush()
    closed = json.loads(read_line(second.stdout))
    said = read_line(second.stdout)

    assert again == asked
    assert closed == {"type": "closed", "id": asked["id"], "why": "answered", "ref": ""}
    assert said == "gave done"
    assert place.paid == ["5"]


def test_a_server_of_another_process_shows_what_waits_and_takes_the_answer(
    place: Place,
) -> None:
    place.configure(detached=True)
    _, run_id = place.done("program.py", "asyncio").split()
    inbox = place.start("inbox.py")
    server = Server(read_line(inbox.stderr))
    request = server.wait_for_a_request()

    wrong = server.answer(request, approved=True, action_digest="sha256:other")
    taken = server.answer(request, approved=True, action_digest=request["action_digest"])
    twice = server.answer(request, approved=False, action_digest=request["action_digest"])

    assert wrong["problem"] == "other_action"
    assert taken == {"id": request["id"], "taken": True}
    assert twice["problem"] == "answered"
    assert place.waiting() == []
    assert place.done("program.py", "asyncio", run_id) == "gave done\n"
    assert place.paid == ["5"]


def test_what_was_refused_while_nobody_was_there_is_not_done(place: Place) -> None:
    place.configure(detached=True)
    _, run_id = place.done("program.py", "asyncio").split()
    (request,) = place.waiting()

    place.kaizen("requests", "answer", request["id"], "--deny", "--comment", "too much")

    assert place.done("program.py", "asyncio", run_id) == "gave done\n"
    assert place.paid == []
