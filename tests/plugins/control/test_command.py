"""`kaizen requests`: what waits in the store, and answers to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from time import time
from typing import Any

import pytest
from kaizen import CheckpointStore, Kernel, PendingRequest, Registry, hookimpl
from kaizen.checkpoints import pending_requests, read_log
from kaizen.runlog import Answered, Asked, RunStarted, encode
from kaizen.testing import MemoryCheckpointStore
from kaizen_control._command import requests

pytestmark = pytest.mark.anyio

RUN = "a" * 32
DIGEST = "sha256:" + "ab" * 32
APPROVAL = PendingRequest(
    id=f"{RUN}:cycle.1.ask_1",
    kind="approval",
    text="May the tool pay run?",
    details={"tool": "pay", "arguments": {"amount": 5, "to": "\x1b[2Jmallory"}},
    action_digest=DIGEST,
    run_path=("b" * 32, RUN),
    agent_path=("office", "clerk"),
)
NUMBER = replace(
    APPROVAL,
    id=f"{RUN}:ask_2",
    kind="question",
    text="How many?",
    details={},
    schema={"type": "integer"},
    action_digest="",
)


class Desk:
    """Runs the command with a store in which requests wait."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.store = MemoryCheckpointStore()
        self.config: dict[str, Any] = {"checkpoint_store": "memory"}
        self.name = "memory"
        self._capsys = capsys

    async def put(self, *waiting: PendingRequest) -> None:
        started = RunStarted(
            seq=0,
            at=0.0,
            run_id=RUN,
            agent_id="clerk",
            parent_id="",
            trace_id=RUN,
            session_id="",
            inputs={},
            messages=(),
        )
        entries = [encode(started)]
        for seq, each in enumerate(waiting, start=1):
            asked = Asked(
                seq=seq,
                at=float(seq),
                request_id=each.id,
                kind=each.kind,
                text=each.text,
                options=each.options,
                details=each.details,
                schema=each.schema,
                action_digest=each.action_digest,
                principal=each.principal,
                run_path=each.run_path,
                agent_path=each.agent_path,
                expires_at=each.expires_at,
            )
            entries.append(encode(asked))
        await self.store.append(RUN, entries)

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(CheckpointStore, self.name, self.store)

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        async with Kernel(
            plugins=[self],
            discover=False,
            config=self.config,
            config_file=False,
            environ={},
        ) as kernel:
            code = await requests(kernel, arguments)
        return (code, *self._capsys.readouterr())

    async def answered(self) -> Sequence[Answered]:
        return [
            each for each in await read_log(self.store, RUN) if isinstance(each, Answered)
        ]


@pytest.fixture
def desk(capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(capsys)


async def test_what_waits_is_listed_with_everything_about_it(desk: Desk) -> None:
    await desk.put(APPROVAL, replace(NUMBER, expires_at=time() - 1))

    code, out, err = await desk("list")

    assert (code, err) == (0, "")
    for part in (
        "Approval for office › clerk",
        "May the tool pay run?",
        "arguments.amount",
        '"\\u001b[2Jmallory"',
        APPROVAL.id,
        "How many?",
        "(It has expired.)",
    ):
        assert part in out
    assert "\x1b" not in out


async def test_programs_read_the_list_as_json(desk: Desk) -> None:
    await desk.put(APPROVAL, NUMBER)

    _, out, _ = await desk("list", "--json")

    assert [each["id"] for each in json.loads(out)] == [APPROVAL.id, NUMBER.id]
    assert json.loads(out)[0]["action_digest"] == DIGEST


async def test_where_nothing_waits_it_says_so(desk: Desk) -> None:
    assert await desk("list") == (0, "No run waits for an answer.\n", "")
    assert (await desk("list", "--json"))[1] == "[]\n"


@pytest.mark.parametrize(
    ("waiting", "arguments", "expected"),
    [
        (APPROVAL, ["--approve"], {"approved": True}),
        (
            APPROVAL,
            ["--approve", "--digest", DIGEST, "--comment", "fine"],
            {"approved": True, "text": "fine"},
        ),
        (APPROVAL, ["--deny", "--comment", "too much"], {"text": "too much"}),
        (
            replace(APPROVAL, details={"rule": "pay"}),
            ["--approve", "--always"],
            {"approved": True, "always": True},
        ),
        (NUMBER, ["--value", "42"], {"value": 42}),
        (NUMBER, ["--text", "42"], {"value": 42, "text": "42"}),
        (replace(NUMBER, schema={}), ["--text", "many"], {"text": "many"}),
    ],
)
async def test_an_answer_goes_into_the_log(
    desk: Desk, waiting: PendingRequest, arguments: list[str], expected: dict[str, Any]
) -> None:
    await desk.put(waiting)

    code, out, err = await desk("answer", waiting.id, *arguments)

    assert (code, err) == (0, "")
    assert f"kaizen runs resume {'b' * 32}" in out
    (given,) = await desk.answered()
    whole = {"approved": False, "text": "", "value": None, "always": False, **expected}
    assert {name: getattr(given, name) for name in whole} == whole
    assert given.principal
    assert await pending_requests(desk.store) == []


@pytest.mark.parametrize(
    ("waiting", "arguments", "why"),
    [
        (APPROVAL, ["--text", "yes"], "set `approved`"),
        (APPROVAL, ["--value", "true"], "set `approved`|has no value"),
        (APPROVAL, ["--approve", "--digest", "sha256:other"], "look again"),
        (APPROVAL, ["--approve", "--always"], "no rule was shown"),
        (NUMBER, ["--approve"], "not approved"),
        (NUMBER, ["--text", "many"], "does not fit"),
        (NUMBER, ["--value", "1.5"], "does not fit"),
        (NUMBER, ["--value", "{"], "no JSON"),
        (NUMBER, ["--value", '1, "approved": true'], "no JSON"),
        (NUMBER, ["--value", "[" * 99], "no JSON"),
        (replace(NUMBER, expires_at=1.0), ["--value", "1"], "has expired"),
    ],
)
async def test_an_answer_that_does_not_fit_is_not_taken(
    desk: Desk, waiting: PendingRequest, arguments: list[str], why: str
) -> None:
    await desk.put(waiting)

    code, out, err = await desk("answer", waiting.id, *arguments)

    assert (code, out) == (1, "")
    assert any(each in err for each in why.split("|"))
    assert await desk.answered() == []


@pytest.mark.parametrize("request_id", [f"{RUN}:ask_7", "c" * 32 + ":ask_1", "../x", "x"])
async def test_an_answer_to_nothing_is_not_taken(desk: Desk, request_id: str) -> None:
    await desk.put(APPROVAL)

    code, _, err = await desk("answer", request_id, "--approve")

    assert code == 1
    assert err


async def test_a_second_answer_is_not_taken(desk: Desk) -> None:
    await desk.put(APPROVAL)
    await desk("answer", APPROVAL.id, "--deny")

    code, _, err = await desk("answer", APPROVAL.id, "--approve")

    assert (code, len(await desk.answered())) == (1, 1)
    assert "no request of that id is open" in err


async def test_a_run_that_is_carried_out_is_not_written_to(desk: Desk) -> None:
    await desk.put(APPROVAL)
    await desk.store.claim(RUN, owner="somebody", lease_s=60)

    code, _, err = await desk("answer", APPROVAL.id, "--approve")

    assert code == 1
    assert err
    assert await desk.answered() == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["answer"],
        ["answer", "x"],
        ["answer", "x", "--approve", "--deny"],
        ["answer", "x", "--deny", "--always"],
        ["forget"],
    ],
)
async def test_what_makes_no_sense_is_a_usage_error(
    desk: Desk, arguments: list[str]
) -> None:
    code, _, err = await desk(*arguments)

    assert code == 2
    assert "usage: kaizen requests" in err


async def test_without_a_store_it_says_what_to_do(desk: Desk) -> None:
    desk.config = {}

    code, _, err = await desk("list")

    assert code == 2
    assert "checkpoint_store" in err


async def test_a_store_can_be_named_and_sqlite_is_that_of_the_command_line(
    desk: Desk,
) -> None:
    desk.config = {}
    assert (await desk("list", "--store", "memory"))[0] == 0
    desk.name = "sqlite"
    assert (await desk("list"))[0] == 0
