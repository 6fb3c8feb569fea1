"""Keys: everything that may change the answer, and whom it may be shown."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
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
from kaizen_cache import CacheSettings, _keys
from kaizen_cache._asking import Asking
from kaizen_cache._keys import Keys, NoKeyError

from .conftest import PRICE, Staging, Teller, notes, tell
from .test_hits import Around, Inside
from .test_store import texts_in

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


async def test_a_message_that_comes_twice_is_as_good_as_two_equal_ones(
    keyed: Callable[..., Any],
) -> None:
    said = Message(role="user", content="hi", origin="user")

    same, equal, once = await keyed(
        replace(REQUEST, messages=(said, said)),
        replace(REQUEST, messages=(said, replace(said))),
        replace(REQUEST, messages=(said,)),
    )

    assert same == equal != once


GROWN = (
    USER,
    ASKS,
    TOLD,
    Message(role="assistant", content="It is 3.", provider_data={"p": {"s": "a"}}),
    Message(role="user", content=("And this?", Image(PNG + b"a"))),
    Message(role="assistant", content="A picture."),
    replace(ASKS, tool_uses=(replace(USE, id="2"), replace(USE, id="3"))),
    replace(TOLD, tool_use_id="3"),
    replace(TOLD, tool_use_id="2"),
)


@pytest.fixture
async def running(staging: Staging) -> tuple[Run, ModelRequest]:
    """A run that has ended, and what it asked."""
    taken = Taken()
    async with staging(Teller(), plugins=[taken]) as staged:
        await tell(staged.agent())
    return taken.calls[0]


async def test_a_key_is_the_same_whether_the_conversation_grew_or_came_at_once(
    running: tuple[Run, ModelRequest],
) -> None:
    run, request = running
    growing = Keys(CacheSettings())
    for start in ((), request.messages):
        for length in range(1, len(GROWN) + 1):
            asked = replace(request, messages=(*start, *GROWN[:length]), cycle=length)
            at_once = await Keys(CacheSettings()).of(run, replace(asked, cycle=1))
            assert await growing.of(run, asked) == at_once


@pytest.mark.parametrize("what", ["arguments", "data", "message", "model", "tenant"])
async def test_what_changes_in_an_earlier_turn_changes_the_key(
    running: tuple[Run, ModelRequest], what: str
) -> None:
    run, request = running
    arguments: dict[str, Any] = {"a": 1}
    data: dict[str, Any] = {"p": 1}
    uses = (replace(USE, arguments=arguments),)
    asks = replace(ASKS, tool_uses=uses, provider_data=data)
    asked = replace(request, messages=(USER, asks, TOLD), cycle=2)
    keys = Keys(CacheSettings())
    first = await keys.of(run, asked)

    if what == "arguments":
        arguments["a"] = 2
    elif what == "data":
        data["p"] = 2
    elif what == "message":
        asked = replace(asked, messages=(replace(USER, content="Who?"), asks, TOLD))
    elif what == "model":
        asked = replace(asked, model="other")
    else:
        run.metadata = {"tenant": "acme"}

    assert await keys.of(run, asked) != first


async def test_what_was_asked_is_not_kept_when_the_run_is_gone(staging: Staging) -> None:
    async with staging(Teller()) as staged:

        class Twice:
            async def execute(self, *_: object) -> Mapping[str, Any]:
                for said in ("one", "two"):
                    await current_run().cycle([Message(role="user", content=said)])
                return {"answer": f"{len(keys._stories)}"}

        keys = staged.cache._keys
        agent = staged.agent(strategy=Twice())
        during = (await tell(agent, "my secret")).answer
        gc.collect()
        kept = [each.opening.messages for each in keys._frames.values()]

    assert (during, len(keys._stories)) == ("1", 0)
    assert "secret" not in str(kept)


@pytest.mark.parametrize("by", ["middleware", "owner"])
async def test_what_is_changed_in_provider_config_changes_the_key(
    staging: Staging, by: str
) -> None:
    seeds = iter([1, 2, 1])

    async def seed(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        if by == "middleware":
            request.settings.extra["seed"] = next(seeds)  # type: ignore[index]
        return await call_next(request)

    async with staging(Teller(), plugins=[Around(seed)]) as staged:
        agent = staged.agent({"provider_config": {"seed": 0}})
        answers = []
        for _ in range(3):
            if by == "owner":
                agent.config.provider_config["seed"] = next(seeds)
            answers.append((await tell(agent)).answer)

    assert answers == ["answer 1", "answer 2", "answer 1"]


async def test_tools_are_read_once_whoever_an_agent_acts_for(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    tell_of = _keys._tools

    def telling(specs: Iterable[ToolSpec]) -> str:
        read.append(specs)
        return tell_of(specs)

    monkeypatch.setattr(_keys, "_tools", telling)
    model = Teller()
    async with staging(model) as staged:
        agent = adding(staged.agent, "Add.")
        await tell(agent)
        before = len(read)
        for number in range(5):
            await tell(agent, tenant=f"{number}")

    assert len(model.requests) == 6
    assert len(read) == before


async def test_a_picture_in_memory_is_hashed_once(
    running: tuple[Run, ModelRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = running
    read: list[object] = []
    read_it = Image.read

    async def reading(medium: Image) -> bytes:
        read.append(medium)
        return await read_it(medium)

    monkeypatch.setattr(Image, "read", reading)
    keys, picture = Keys(CacheSettings()), Image(PNG + b"a")
    asked = [with_message(0, content=(text, picture)) for text in ("a", "b", "a")]
    first, second, third = [await keys.of(run, each) for each in asked]

    assert len(read) == 1
    assert first == third != second
    read.clear()
    asked.clear()
    del picture
    gc.collect()
    assert not keys._media


async def test_a_reply_about_a_file_that_is_gone_meanwhile_is_given_and_not_kept(
    staging: Staging, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"

    class Removing(Teller):
        async def complete(self, request: ModelRequest) -> ModelReply:
            await anyio.Path(path).unlink(missing_ok=True)
            return await super().complete(request)

    answers = []
    async with staging(Removing()) as staged:
        agent = staged.agent(signature=Seen)
        for _ in range(2):
            await anyio.Path(path).write_bytes(PNG + b"a")
            answers.append((await agent.run(photo=path)).answer)

    assert answers == ["answer 1", "answer 2"]


async def shout(request: ModelRequest, call_next: ModelCall) -> ModelReply:
    reply = await call_next(request)
    return replace(reply, text=reply.text.upper())


async def refuse(request: ModelRequest, call_next: ModelCall) -> ModelReply:
    raise PermissionError("closed")


async def begin(request: ModelRequest, call_next: ModelCall) -> ModelReply:
    return await call_next(replace(request, prefix="Because "))


@pytest.mark.parametrize("kind", [Around, Inside])
@pytest.mark.parametrize("same_id", [False, True])
async def test_what_an_agents_own_middleware_does_is_not_for_other_agents(
    staging: Staging, kind: type[Around], same_id: bool
) -> None:
    said = ["secret", "secret", "a reason", "a question"]
    model = Teller(*(said if kind is Around else ["secret", *said]))
    async with staging(model, scope="definition") as staged:

        def agent(name: str, *acts: Any) -> BaseAgent:
            hooks = [kind(act) for act in acts]
            return staged.agent(agent_id="one" if same_id else name, hooks=hooks)

        plain = (await tell(agent("plain"))).answer
        loud = (await tell(agent("loud", shout))).answer
        again = (await tell(agent("another"))).answer
        with pytest.raises(PermissionError):
            await tell(agent("shut", refuse, shout, shout))

    assert (plain, loud, again) == ("secret", "SECRET", "secret")


@pytest.mark.parametrize(
    "act",
    [shout, begin, lambda request, call_next: call_next(request.with_context("other"))],
    ids=["reply", "prefix", "context"],
)
async def test_what_an_agents_own_middleware_changes_is_not_kept(
    staging: Staging, act: Any
) -> None:
    model = Teller("one", "two", "three")
    async with staging(model, scope="definition") as staged:
        changing = staged.agent(agent_id="a", hooks=[Around(act)])
        plain = staged.agent(agent_id="b")
        answers = [(await tell(each)).answer for each in (changing, changing, plain)]

    assert [each.lower() for each in answers] == ["one", "two", "three"]


@pytest.mark.parametrize("first", ["as it was", "changed"])
@pytest.mark.parametrize("given", ["as it was", "changed"])
async def test_of_two_questions_of_an_agents_own_middleware_the_right_one_counts(
    staging: Staging, first: str, given: str
) -> None:
    async def ask_both(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        asked = {"as it was": request, "changed": request.with_context("other")}
        order = sorted(asked, key=lambda each: each != first)
        replies = {each: await call_next(asked[each]) for each in order}
        return replies[given]

    model = Teller()
    async with staging(model) as staged:
        agent = staged.agent(hooks=[Around(ask_both)])
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert (answers[0] == answers[1]) is (given == "as it was")
    assert len(model.requests) == (2 if given == "as it was" else 4)


async def test_a_reply_that_is_said_to_cost_something_else_is_the_same(
    staging: Staging,
) -> None:
    async def count(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        reply = await call_next(request)
        return replace(reply, cost_usd=2 * PRICE)

    async with staging(Teller()) as staged:
        agent = staged.agent(hooks=[Around(count)])
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1"] * 2


@pytest.mark.parametrize("what", ["request", "reply"])
async def test_what_an_agents_own_middleware_changes_in_place_is_not_kept(
    staging: Staging, what: str
) -> None:
    async def sign(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        extra = cast(dict[str, Any], request.settings.extra)
        if what == "request":
            extra["who"] = current_run().session_id
        reply = await call_next(request)
        extra.pop("who", None)
        if what == "reply":
            cast(dict[str, Any], reply.provider_data)["who"] = current_run().session_id
        return reply

    model = Teller(*(ModelReply(text=each, provider_data={}) for each in ("one", "two")))
    async with staging(model) as staged:
        agent = staged.agent({"provider_config": {"seed": 1}}, hooks=[Around(sign)])
        answers = [(await tell(agent.bind(session_id=each))).answer for each in "AB"]

    assert answers == ["one", "two"]


async def test_what_was_changed_and_is_changed_back_meanwhile_is_not_kept(
    staging: Staging,
) -> None:
    async def sign(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        cast(dict[str, Any], request.settings.extra)["who"] = current_run().session_id
        return await call_next(request)

    async def change_back(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        reply = await call_next(request)
        cast(dict[str, Any], request.settings.extra).pop("who")
        return reply

    model = Teller()
    async with staging(model, plugins=[Inside(change_back)]) as staged:
        agent = staged.agent({"provider_config": {"seed": 1}}, hooks=[Around(sign)])
        answers = [(await tell(agent.bind(session_id=each))).answer for each in "AB"]

    assert answers == ["answer 1", "answer 2"]


@pytest.mark.parametrize("kind", [Around, Inside])
async def test_what_can_be_changed_and_is_not_is_kept(
    staging: Staging, kind: type[Around]
) -> None:
    async def copy(request: ModelRequest, call_next: ModelCall) -> ModelReply:
        settings = replace(request.settings, timeout_s=5, extra={"seed": 1})
        reply = await call_next(replace(request, settings=settings))
        return replace(reply, provider_data={"p": {"a": 1}})

    model = Teller(ModelReply(text="one", provider_data={"p": {"a": 1}}))
    async with staging(model) as staged:
        agent = staged.agent({"provider_config": {"seed": 1}}, hooks=[kind(copy)])
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["one"] * 2


@pytest.mark.parametrize("what", ["arguments", "data", "extra", "nothing JSON can hold"])
async def test_a_request_that_was_changed_in_place_is_another(
    running: tuple[Run, ModelRequest], what: str
) -> None:
    run, request = running
    parts: dict[str, Any] = {"arguments": {"a": 1}, "data": {"p": 1}, "extra": {"seed": 1}}
    uses = (replace(USE, arguments=parts["arguments"]),)
    asks = replace(ASKS, tool_uses=uses, provider_data=parts["data"])
    settings = replace(request.settings, extra=parts["extra"])
    asked = replace(request, messages=(USER, asks, TOLD), settings=settings)
    asking = Asking(run, asked)
    same = asking.is_asked_by(asked)

    if what in parts:
        parts[what]["more"] = 2
    else:
        parts["extra"]["more"] = object()

    assert same
    assert not asking.is_asked_by(asked)
    assert not asking.is_asked_by(replace(asked))


@pytest.mark.parametrize("forgets", [False, True])
async def test_what_an_agent_asks_with_is_kept_as_long_as_the_agent(
    staging: Staging, forgets: bool
) -> None:
    class Signing:
        name = "signing"

        @hookimpl(priority=Priority.HIGH)
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            settings = replace(request.settings, extra={"of": "hunter2"})
            asked = replace(request, prefix="hunter3", settings=settings)
            return await call_next(asked)

    async with staging(Teller(), plugins=[Signing()]) as staged:
        keys = staged.cache._keys
        agent = staged.agent(signature=Twice)
        for _ in range(2):
            await tell(agent)
        during = texts_in(*keys._frames.values())
        if forgets:
            await staged.cache.clear()
        else:
            del agent
            await checkpoint()  # the event loop has to let go of the run
            gc.collect()
        left = len(keys._frames)

    assert [each for each in during if "Say it twice." in each]
    assert not [each for each in during if "hunter" in each]
    assert left == 0


class Twice(Signature):
    """Say it twice."""

    question: str = InputField()
    answer: str = OutputField()
