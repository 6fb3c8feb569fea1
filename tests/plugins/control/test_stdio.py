"""Requests as JSON lines: over streams, and over the descriptors of a process."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.stapled import StapledByteStream
from kaizen import Answer, NotAnsweredError, PendingRequest
from kaizen_control import ControlProtocol, StdioTransport, TransportClosedError

from tests.plugins.control._pipe import Pipe

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "ab" * 32
QUESTION = PendingRequest(id="run:ask_1", kind="question", text="Which\nway?")
APPROVAL = PendingRequest(
    id="run:ask_1", kind="approval", text="Pay?", action_digest=DIGEST
)


class Spoken:
    """A channel over two pipes, and a program at their other ends."""

    def __init__(self, protocol: ControlProtocol, to_us: Pipe, from_us: Pipe) -> None:
        self.protocol = protocol
        self.to_us = to_us
        self.from_us = from_us
        self.tasks = anyio.create_task_group()
        self.outcomes: list[Answer | NotAnsweredError] = []
        self._read = BufferedByteReceiveStream(from_us)  # type: ignore[arg-type]

    def ask(self, request: PendingRequest) -> None:
        self.tasks.start_soon(self._ask, request)

    async def _ask(self, request: PendingRequest) -> None:
        try:
            self.outcomes.append(await self.protocol.ask(request))
        except NotAnsweredError as error:
            self.outcomes.append(error)

    async def line(self) -> Any:
        with anyio.fail_after(5):
            return json.loads(await self._read.receive_until(b"\n", 2_000_000))

    async def say(self, line: bytes | dict[str, Any]) -> None:
        data = line if isinstance(line, bytes) else json.dumps(line).encode()
        await self.to_us.send(data + b"\n")


@asynccontextmanager
async def speaking() -> AsyncGenerator[Spoken]:
    to_us, from_us = Pipe(), Pipe()
    transport = StdioTransport(to_us, from_us, principal="parent")  # type: ignore[arg-type]
    try:
        async with ControlProtocol(transport, progress_interval_s=0) as protocol:
            made = Spoken(protocol, to_us, from_us)
            async with made.tasks:
                yield made
                made.tasks.cancel_scope.cancel()
    finally:
        to_us.close()
        from_us.close()


async def test_a_request_is_a_line_and_so_is_its_answer() -> None:
    async with speaking() as spoken:
        spoken.ask(APPROVAL)
        asked = await spoken.line()
        answer = {"type": "answer", "id": asked["id"], "approved": True, "ref": "r7"}

        await spoken.say({**answer, "action_digest": asked["action_digest"]})

        assert asked["type"] == "request"
        assert asked["text"] == "Pay?"
        assert await spoken.line() == {
            "type": "closed",
            "id": APPROVAL.id,
            "why": "answered",
            "ref": "r7",
        }
        assert spoken.outcomes == [Answer(approved=True, principal="parent")]


BAD_LINES = [
    b"{",
    b"null",
    b"[]",
    b"yes",
    b'{"type": "answer"}',
    b'{"type": "request", "id": "x"}',
    b'{"id": ""}',
    b'{"id": "x", "principal": "root"}',
    b'{"id": 5}',
    b'{"id": "x", "value": NaN}',
    b"\xff\xff",
    b"\x00",
    b'{"id": "x", "value": ' + b"[" * 5_000,
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
async def test_a_line_that_is_no_answer_is_refused_and_the_next_one_is_read(
    line: bytes,
) -> None:
    async with speaking() as spoken:
        spoken.ask(QUESTION)
        await spoken.line()

        await spoken.say(line)

        refused = await spoken.line()
        assert (refused["type"], refused["problem"]) == ("refused", "malformed")
        assert refused["reason"]
        await spoken.say({"id": QUESTION.id, "text": "left"})
        assert (await spoken.line())["type"] == "closed"


async def test_a_line_without_end_is_refused_and_passed_over() -> None:
    async with speaking() as spoken:
        spoken.ask(QUESTION)
        await spoken.line()

        for _ in range(50):
            await spoken.to_us.send(b'{"id": "run:ask_1", "text": "' + b"x" * 50_000)
        refused = await spoken.line()
        await spoken.say(b'"}')
        await spoken.say({"id": QUESTION.id, "text": "left"})

        assert refused["problem"] == "malformed"
        assert "longer than" in refused["reason"]
        assert (await spoken.line())["type"] == "closed"
        assert spoken.outcomes == [Answer(text="left", principal="parent")]


async def test_lines_may_come_in_pieces_and_together_and_blank() -> None:
    async with speaking() as spoken:
        other = replace(QUESTION, id="run:ask_2")
        spoken.ask(QUESTION)
        spoken.ask(other)
        await spoken.line()
        await spoken.line()
        answers = [{"id": each.id, "text": f"ü {each.id}"} for each in (QUESTION, other)]
        data = b"\n\r\n".join(
            json.dumps(each, ensure_ascii=False).encode() for each in answers
        )

        spoken.to_us.limit = 1
        await spoken.say(data)

        assert {(await spoken.line())["id"] for _ in range(2)} == {QUESTION.id, other.id}
        assert sorted(
            each.text for each in spoken.outcomes if isinstance(each, Answer)
        ) == [
            f"ü {QUESTION.id}",
            f"ü {other.id}",
        ]


async def test_a_last_line_without_its_end_is_read() -> None:
    async with speaking() as spoken:
        spoken.ask(QUESTION)
        await spoken.line()

        await spoken.to_us.send(b'{"id": "run:ask_1", "text": "left"}')
        await spoken.to_us.aclose()

        assert (await spoken.line())["type"] == "closed"
        assert spoken.outcomes == [Answer(text="left", principal="parent")]


@pytest.mark.parametrize("rest", [b"", b'{"id": "run:ask'])
async def test_when_the_other_side_closes_the_line_questions_are_not_answered(
    rest: bytes,
) -> None:
    async with speaking() as spoken:
        spoken.ask(QUESTION)
        await spoken.line()

        if rest:
            await spoken.to_us.send(rest)
        await spoken.to_us.aclose()

        with anyio.fail_after(5):
            while not spoken.outcomes:
                await anyio.lowlevel.checkpoint()
        (outcome,) = spoken.outcomes
        assert isinstance(outcome, NotAnsweredError)
        assert "closed the line" in outcome.problem


async def test_a_broken_line_takes_no_questions() -> None:
    async with speaking() as spoken:
        spoken.from_us.break_()
        await spoken.protocol.progress("half way")

        with anyio.fail_after(5):
            while not spoken.outcomes:
                spoken.ask(QUESTION)
                for _ in range(10):
                    await anyio.lowlevel.checkpoint()
            outcome = spoken.outcomes[-1]
        assert isinstance(outcome, NotAnsweredError)


async def test_a_question_that_is_given_up_leaves_no_half_of_a_line() -> None:
    async with speaking() as spoken:
        for number in range(20):
            request = replace(QUESTION, id=f"run:ask_{number}", text="x" * 20_000)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(spoken.protocol.ask, request)
                    for _ in range(number % 4):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
        spoken.ask(QUESTION)

        kinds = []
        while True:
            line = await spoken.line()
            kinds.append(line["type"])
            if line.get("text") == QUESTION.text:
                break

        assert set(kinds) <= {"request", "closed"}


async def test_a_line_that_had_no_end_is_forgotten_when_the_channel_is_opened_again() -> (
    None
):
    from_us = Pipe()
    sources = [Pipe(), Pipe()]
    transport = StdioTransport(sources[0], from_us)  # type: ignore[arg-type]
    with anyio.fail_after(5):
        async with transport.opened():
            await sources[0].send(b"x" * 300_000)
            await sources[0].aclose()
            with pytest.raises(TransportClosedError):
                await transport.receive()
        transport._source = sources[1]  # type: ignore[assignment]
        async with transport.opened():
            await sources[1].send(b'{"id": "run:ask_1", "text": "left"}\n')
            assert (await transport.receive()).answer.text == "left"
    for each in (from_us, *sources):
        each.close()


PROGRAM = """
    import sys
    import anyio
    from kaizen import PendingRequest
    from kaizen_control import ControlProtocol, StdioTransport

    async def main():
        request = PendingRequest(id="run:ask_1", kind="question", text="x" * 300_000)
        async with ControlProtocol(StdioTransport()) as protocol:
            await protocol.progress("begun")
            answer = await protocol.ask(request)
        sys.stderr.write(answer.text)

    anyio.run(main, backend=sys.argv[1])
"""


async def test_a_program_speaks_over_its_own_stdin_and_stdout(anyio_backend: str) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), anyio_backend]
    async with await anyio.open_process(command, stderr=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        lines = BufferedByteReceiveStream(process.stdout)
        told = json.loads(await lines.receive_until(b"\n", 2_000_000))
        asked = json.loads(await lines.receive_until(b"\n", 2_000_000))
        await process.stdin.send(b'{"id": "run:ask_1", "text": "left"}\n')
        with anyio.fail_after(20):
            errors = b"".join([each async for each in process.stderr])
            code = await process.wait()

    assert told["message"] == "begun"
    assert len(asked["text"]) == 300_000
    assert (code, errors) == (0, b"left")


async def test_a_program_speaks_to_a_process_that_it_started() -> None:
    program = textwrap.dedent("""
        import json, sys
        for line in sys.stdin:
            message = json.loads(line)
            if message["type"] == "request":
                print(json.dumps({"id": message["id"], "text": "left"}), flush=True)
    """)
    async with await anyio.open_process([sys.executable, "-c", program]) as process:
        assert process.stdin
        assert process.stdout
        line = StapledByteStream(process.stdin, process.stdout)
        async with ControlProtocol(StdioTransport(line, line)) as protocol:
            with anyio.fail_after(20):
                answer = await protocol.ask(QUESTION)
        process.kill()

    assert answer.text == "left"
