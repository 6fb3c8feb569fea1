"""Keys: everything that may change the answer, and whom it may be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from kaizen import (
    Audio,
    BaseAgent,
    Document,
    Effect,
    Image,
    InputField,
    OutputField,
    Priority,
    Signature,
    ToolSpec,
    current_run,
    hookimpl,
    tool,
)
from kaizen.hookspecs import ModelCall
from kaizen.messages import (
    Message,
    ModelReply,
    ModelRequest,
    ModelSettings,
    OutputSpec,
    ToolUse,
)
from kaizen.run import Run
from kaizen.tools import DangerLevel
from kaizen_cache import CacheSettings
from kaizen_cache._keys import Keys, NoKeyError

from .conftest import Staging, Teller, notes, tell

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n"
SPEC = ToolSpec(
    name="add",
    description="Add.",
    parameters={"type": "object", "properties": {"a": {"type": "integer"}}},
    effect=Effect.of("safe"),
)
USE = ToolUse(id="1", name="add", arguments={"a": 1})
USER = Message(role="user", content="Why?", origin="user")
ASKS = Message(role="assistant", content="", tool_uses=(USE,), origin="model")
TOLD = Message(role="tool", content="3", tool_use_id="1", name="add", origin="tool:add")
OUTPUT = OutputSpec(name="Answer", schema={"type": "object"})
REQUEST = ModelRequest(
    messages=(USER, ASKS, TOLD), model="large", tools=(SPEC,), output=OUTPUT
)


class Taken:
    """Keeps the run and the request of each model call."""

    name = "taken"

    def __init__(self) -> None:
        self.calls: list[tuple[Run, ModelRequest]] = []

    @hookimpl(priority=Priority.CRITICAL)
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        self.calls.append((current_run(), request))
        return await call_next(request)


@pytest.fixture
def keyed(staging: Staging) -> Callable[..., Any]:
    """Return what makes keys of requests, in one run."""

    async def keyed(*requests: ModelRequest, **settings: Any) -> list[str]:
        taken = Taken()
        async with staging(Teller(), plugins=[taken]) as staged:
            await tell(staged.agent())
            ((run, _),) = taken.calls
            keys = Keys(CacheSettings(**settings))
            return [(await keys.of(run, each)).text for each in requests]

    return keyed


def with_message(number: int, **changes: Any) -> ModelRequest:
    messages = list(REQUEST.messages)
    messages[number] = replace(messages[number], **changes)
    return replace(REQUEST, messages=tuple(messages))


def with_use(**changes: Any) -> ModelRequest:
    return with_message(1, tool_uses=(replace(USE, **changes),))


def with_spec(**changes: Any) -> ModelRequest:
    return replace(REQUEST, tools=(replace(SPEC, **changes),))


def with_settings(**changes: Any) -> ModelRequest:
    return replace(REQUEST, settings=ModelSettings(**changes))


OTHERS: Mapping[str, ModelRequest] = {
    "model": replace(REQUEST, model="small"),
    "provider": replace(REQUEST, provider="other"),
    "prefix": replace(REQUEST, prefix="Because"),
    "content": with_message(0, content="Why!"),
    "an empty message more": replace(
        REQUEST, messages=(*REQUEST.messages, Message(role="user", content=""))
    ),
    "a message less": replace(REQUEST, messages=REQUEST.messages[:2]),
    "order": replace(REQUEST, messages=(ASKS, USER, TOLD)),
    "role": with_message(0, role="system"),
    "origin": with_message(0, origin="memory"),
    "name": with_message(2, name="multiply"),
    "what is told": with_message(2, content="4"),
    "parts": with_message(0, content=("Wh", "y?")),
    "one part": with_message(0, content=("Why?",)),
    "what goes back": with_message(1, provider_data={"p": {"signature": "a"}}),
    "what else goes back": with_message(1, provider_data={"p": {"signature": "b"}}),
    "nothing goes back": with_message(1, provider_data={}),
    "tool called": with_use(name="multiply"),
    "arguments": with_use(arguments={"a": 2}),
    "type of an argument": with_use(arguments={"a": "1"}),
    "truth of an argument": with_use(arguments={"a": True}),
    "text of arguments": with_use(arguments='{"a": 1}'),
    "no call": with_message(1, tool_uses=()),
    "a call more": with_message(1, tool_uses=(USE, replace(USE, id="2"))),
    "another call answered": with_message(2, tool_use_id="2"),
    "none answered": with_message(2, tool_use_id=""),
    "no tools": replace(REQUEST, tools=()),
    "a tool twice": replace(REQUEST, tools=(SPEC, SPEC)),
    "tool": with_spec(name="plus"),
    "description": with_spec(description="Add numbers."),
    "parameters": with_spec(parameters={"type": "object"}),
    "effect": with_spec(effect=Effect(danger=DangerLevel.SAFE, external=True)),
    "tool's time": with_spec(timeout_s=1.0),
    "length of a result": with_spec(max_output_chars=10),
    "no output": replace(REQUEST, output=None),
    "schema": replace(REQUEST, output=replace(OUTPUT, schema={"type": "array"})),
    "strict": replace(REQUEST, output=replace(OUTPUT, strict=False)),
    "name of the output": replace(REQUEST, output=replace(OUTPUT, name="Other")),
    "temperature": with_settings(temperature=0.1),
    "another temperature": with_settings(temperature=0),
    "max_tokens": with_settings(max_tokens=10),
    "extra": with_settings(extra={"seed": 1}),
    "other extra": with_settings(extra={"seed": 2}),
    "a picture": with_message(0, content=("Why?", Image(PNG + b"a"))),
    "another picture": with_message(0, content=("Why?", Image(PNG + b"b"))),
    "a picture first": with_message(0, content=(Image(PNG + b"a"), "Why?")),
    "a sheet": with_message(0, content=("Why?", Document(b"plain", media_type="text/csv"))),
    "a document": with_message(
        0, content=("Why?", Document(b"plain", media_type="text/plain"))
    ),
    "a recording": with_message(
        0, content=("Why?", Audio(b"plain", media_type="audio/wav"))
    ),
    "a large picture": with_message(0, content=(Image(PNG + b"a" * 2_000_000),)),
    "another large one": with_message(0, content=(Image(PNG + b"a" * 2_000_001),)),
}

SAME: Mapping[str, ModelRequest] = {
    "run": replace(REQUEST, run_id="other"),
    "turn": replace(REQUEST, cycle=7),
    "time": with_settings(timeout_s=3.0),
    "order of keys": with_spec(
        parameters={"properties": {"a": {"type": "integer"}}, "type": "object"}
    ),
    "ids of calls": replace(
        REQUEST,
        messages=(
            USER,
            replace(ASKS, tool_uses=(replace(USE, id="call_77"),)),
            replace(TOLD, tool_use_id="call_77"),
        ),
    ),
    "equal messages": replace(
        REQUEST, messages=tuple(replace(each) for each in REQUEST.messages)
    ),
}


async def test_everything_that_may_change_the_answer_changes_the_key(
    keyed: Callable[..., Any],
) -> None:
    keys = await keyed(REQUEST, *OTHERS.values())

    named = dict(zip(["as it is", *OTHERS], keys, strict=True))
    assert len(set(keys)) == len(keys), sorted(named.items(), key=lambda each: each[1])


async def test_what_changes_nothing_does_not_change_the_key(
    keyed: Callable[..., Any],
) -> None:
    first, *others = await keyed(REQUEST, *SAME.values())

    assert {name: key == first for name, key in zip(SAME, others, strict=True)} == (
        dict.fromkeys(SAME, True)
    )


async def test_a_key_is_the_same_in_another_process(keyed: Callable[..., Any]) -> None:
    (one,), (other,) = await keyed(REQUEST), await keyed(REQUEST)

    assert one == other
    assert len(one) == 64


async def test_another_namespace_begins_anew(keyed: Callable[..., Any]) -> None:
    (one,) = await keyed(REQUEST)
    (other,) = await keyed(REQUEST, namespace="after the move")

    assert one != other


async def test_calls_are_told_apart_by_their_places(keyed: Callable[..., Any]) -> None:
    uses = (USE, replace(USE, id="2", arguments={"a": 2}))
    told = (TOLD, replace(TOLD, tool_use_id="2", content="4"))
    asks = replace(ASKS, tool_uses=uses)

    straight, crossed = await keyed(
        replace(REQUEST, messages=(USER, asks, *told)),
        replace(
            REQUEST,
            messages=(
                USER,
                asks,
                replace(told[0], tool_use_id="2"),
                replace(told[1], tool_use_id="1"),
            ),
        ),
    )

    assert straight != crossed


async def test_long_messages_are_hashed_once_and_told_apart(
    keyed: Callable[..., Any],
) -> None:
    long = [Message(role="user", content=f"{n} " * 5_000) for n in range(3)]
    requests = [replace(REQUEST, messages=(each,)) for each in long * 2]

    keys = await keyed(*requests)

    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "odd",
    [
        with_settings(extra={"made": object()}),
        with_settings(extra={1: "one", "two": 2}),
        with_use(arguments={"made": object()}),
        with_message(0, content=(Image("https://example.org/a.png"),)),
    ],
    ids=["object", "mixed keys", "argument", "url"],
)
async def test_what_nobody_can_compare_has_no_key(
    keyed: Callable[..., Any], odd: ModelRequest
) -> None:
    with pytest.raises(NoKeyError):
        await keyed(odd)


async def test_a_url_may_be_taken_for_what_is_behind_it(keyed: Callable[..., Any]) -> None:
    one, same, other = await keyed(
        *(
            with_message(0, content=(Image(f"https://example.org/{name}.png"),))
            for name in "aab"
        ),
        cache_urls=True,
    )

    assert one == same != other


async def test_a_call_without_a_key_is_made_and_the_log_says_why(
    staging: Staging,
) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent({"provider_config": {"made": object()}})
        async with agent.stream(question="?") as run:
            await run.wait()
        await tell(agent)

    assert len(model.requests) == 2
    assert [each.data["reason"] for each in notes(run, "no_key")] == ["TypeError"]


class Seen(Signature):
    """Say what is in a picture."""

    photo: Image = InputField(desc="A picture")
    answer: str = OutputField(desc="What is in it")


async def test_a_file_is_what_is_in_it(staging: Staging, tmp_path: Path) -> None:
    path, other = tmp_path / "photo.png", tmp_path / "copy" / "photo.png"
    path.write_bytes(PNG + b"a")
    other.parent.mkdir()
    other.write_bytes(PNG + b"a")

    async with staging(Teller()) as staged:
        agent = staged.agent(signature=Seen)
        first = await agent.run(photo=path)
        same = await agent.run(photo=path)
        copied = await agent.run(photo=other)
        await anyio.Path(path).write_bytes(PNG + b"b")
        changed = await agent.run(photo=path)

    assert first.answer == same.answer == copied.answer == "answer 1"
    assert changed.answer == "answer 2"


async def test_a_reply_about_a_file_that_changed_meanwhile_is_not_kept(
    staging: Staging, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG + b"a")

    class Changing(Teller):
        async def complete(self, request: ModelRequest) -> ModelReply:
            if not self.requests:
                await anyio.Path(path).write_bytes(PNG + b"b")
            return await super().complete(request)

    async with staging(Changing()) as staged:
        agent = staged.agent(signature=Seen)
        await agent.run(photo=path)
        await anyio.Path(path).write_bytes(PNG + b"a")
        again = await agent.run(photo=path)

    assert again.answer == "answer 2"


WHOM: list[dict[str, Any]] = [
    {},
    {"tenant": "acme"},
    {"tenant": "other"},
    {"tenant": ""},
    {"tenant_id": "acme"},
    {"principal": "zoe"},
    {"principal": "bob"},
    {"user_id": "zoe"},
    {"tenant": "acme", "principal": "zoe"},
    {"tenant": ["acme"]},
]


async def test_nobody_gets_the_replies_of_somebody_else(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent()
        first = [(await tell(agent, **whom)).answer for whom in WHOM]
        again = [(await tell(agent, **whom)).answer for whom in WHOM]

    assert len(set(first)) == len(WHOM)
    assert first == again
    assert len(model.requests) == len(WHOM)


async def test_other_metadata_make_no_difference(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent()
        await tell(agent, ticket=1)
        await tell(agent, ticket=2)

    assert len(model.requests) == 1


async def test_whom_the_run_around_it_acts_for_counts(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        inner = staged.agent({"llm_provider": "teller"}, agent_id="inner")

        class Outer:
            async def execute(self, *_: object) -> Mapping[str, Any]:
                return {"answer": (await inner.run(question="?")).answer}

        outer = staged.agent(agent_id="outer", strategy=Outer())
        answers = [
            (await tell(outer, tenant=tenant)).answer
            for tenant in ("acme", "other", "acme")
        ]

    assert answers == ["answer 1", "answer 2", "answer 1"]


async def test_each_agent_has_replies_of_its_own(staging: Staging) -> None:
    model = Teller()
    async with staging(model) as staged:
        agents = [staged.agent(agent_id=name) for name in ("one", "other", "one")]
        answers = [(await tell(each)).answer for each in agents]

    assert answers == ["answer 1", "answer 2", "answer 1"]


async def test_agents_of_one_definition_may_share(staging: Staging) -> None:
    model = Teller()
    async with staging(model, scope="definition") as staged:
        agents = [
            staged.agent(agent_id="one"),
            staged.agent(agent_id="other"),
            staged.agent(agent_id="third", signature="question -> answer, reason"),
        ]
        model._said = ["a", '{"answer": "b", "reason": "c"}']
        answers = [(await tell(each)).answer for each in agents]

    assert answers == ["a", "a", "b"]


async def test_tenants_stay_apart_where_agents_share(staging: Staging) -> None:
    model = Teller()
    async with staging(model, scope="definition") as staged:
        one, other = staged.agent(agent_id="one"), staged.agent(agent_id="other")
        answers = [
            (await tell(one, tenant="acme")).answer,
            (await tell(other, tenant="other")).answer,
        ]

    assert answers == ["answer 1", "answer 2"]


def adding(agent: Callable[..., BaseAgent], description: str, **options: Any) -> BaseAgent:
    async def add(a: int, b: int) -> int:
        return a + b

    add.__doc__ = description
    return agent(tools=[tool(danger="safe")(add)], **options)


@pytest.mark.parametrize("scope", ["agent", "definition"])
@pytest.mark.parametrize("strategy", [None, "single_shot"])
async def test_agents_with_different_tools_never_share(
    staging: Staging, scope: str, strategy: str | None
) -> None:
    model = Teller()
    async with staging(model, scope=scope) as staged:
        options: dict[str, Any] = {"strategy": strategy}
        agents = [
            staged.agent(**options),
            adding(staged.agent, "Add.", **options),
            adding(staged.agent, "Add two numbers.", **options),
            adding(staged.agent, "Add.", **options),
        ]
        answers = [(await tell(each)).answer for each in agents]

    assert answers == ["answer 1", "answer 2", "answer 3", "answer 2"]
