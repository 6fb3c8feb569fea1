"""Stores that fail, hang, or give what was never put; replies that are not for keeping."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Annotated, Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kaizen import BaseAgent, InputField, Kernel, OutputField, Signature, hookimpl, tool
from kaizen.errors import ConfigurationError, UnknownNameError
from kaizen.hookspecs import ModelCall
from kaizen.messages import ModelReply, ModelRequest, ToolUse
from kaizen.runlog import Noted
from kaizen.testing import ModelPlugin
from kaizen_cache import (
    CachePlugin,
    CacheSettings,
    CacheStore,
    MemoryCacheStore,
    ModelCache,
)
from kaizen_cache._memory import Kept
from pydantic import AfterValidator

from .conftest import USED, Clock, Offering, Staging, Teller, following, notes, tell

pytestmark = pytest.mark.anyio

DATA = {"teller": {"signature": ["a", {"b": 1}]}}


class Failing(MemoryCacheStore):
    """Fails, or hangs, in what a test names.

    Attributes:
        asked: What it was asked to do.
    """

    def __init__(self, **acts: BaseException | None) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._acts = acts

    def mend(self) -> dict[str, BaseException | None]:
        """Fail no more; return what failed."""
        acts, self._acts = self._acts, {}
        return acts

    def fail(self, acts: dict[str, BaseException | None]) -> None:
        """Fail again."""
        self._acts = acts

    async def get(self, key: str) -> bytes | None:
        await self._act("get")
        return await super().get(key)

    async def put(self, key: str, value: bytes, *, ttl_s: float) -> None:
        await self._act("put")
        await super().put(key, value, ttl_s=ttl_s)

    async def _act(self, name: str) -> None:
        self.asked.append(name)
        if name in self._acts:
            error = self._acts[name]
            if error is not None:
                raise error
            await anyio.sleep_forever()


@pytest.mark.parametrize("operation", ["get", "put"])
@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_store_that_fails_or_hangs_stops_no_run_and_is_reported(
    staging: Staging, operation: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = OSError("redis://me:secret@host is away") if how == "fails" else None
    offering = Offering(Failing(**{operation: error}))
    model = Teller()
    async with staging(
        model, plugins=[offering], store="mine", store_timeout_s=0.02
    ) as staged:
        agent = staged.agent()
        with caplog.at_level(logging.WARNING, "kaizen"):
            async with agent.stream(question="?") as run:
                result = await run.wait()
            again = await tell(agent)

    (note,) = notes(run, "store_failed")
    assert (result.answer, again.answer) == ("answer 1", "answer 2")
    assert note.data["operation"] == operation
    assert ("OSError" if how == "fails" else "TimeoutError") in note.data["problem"]
    assert len(caplog.records) >= 1
    assert "secret" not in f"{note}{caplog.text}"


async def test_a_store_that_cannot_be_opened_stops_no_run(staging: Staging) -> None:
    async def cannot() -> CacheStore:
        raise OSError("away")

    async with staging(Teller(), plugins=[Offering(cannot)], store="mine") as staged:
        answers = [(await tell(staged.agent())).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 2"]


async def test_a_store_of_another_plugin_is_opened_once_and_closed(
    staging: Staging,
) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncGenerator[CacheStore]:
        seen.append("opened")
        yield MemoryCacheStore()
        seen.append("closed")

    async with staging(Teller(), plugins=[Offering(opened)], store="mine") as staged:
        answers = [(await tell(staged.agent())).answer for _ in range(3)]

    assert answers == ["answer 1"] * 3
    assert seen == ["opened", "closed"]


async def test_a_store_that_nobody_offers_is_an_error_that_names_those_there_are(
    staging: Staging,
) -> None:
    async with staging(Teller(), store="redis") as staged:
        with pytest.raises(UnknownNameError, match=r"'redis'.*memory"):
            await tell(staged.agent())


async def test_the_kernels_cache_backend_names_the_store(staging: Staging) -> None:
    async with staging(Teller(), config={"cache_backend": "redis"}) as staged:
        with pytest.raises(UnknownNameError, match="redis"):
            await tell(staged.agent())


async def test_without_the_plugin_the_switch_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigurationError, match="kaizen-cache"):
        async with Kernel(
            discover=False, config={"cache_enabled": True}, config_file=False, environ={}
        ):
            pass


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], object]:
    def damage(value: bytes) -> object:
        kept = json.loads(value)
        change(kept)
        return json.dumps(kept).encode()

    return damage


def replace_value(store: Any, change: Callable[[bytes], object]) -> None:
    """Put something else into a store, as who can write to it may."""
    ((key, kept),) = store._kept.items()
    other = store._kept[key] = Kept(b"", kept.until)
    other.value = cast(Any, change(kept.value))


DAMAGES: Mapping[str, Callable[[bytes], object]] = {
    "cut": lambda value: value[:-10],
    "empty": lambda _: b"",
    "not JSON": lambda _: b"\x80\x04K\x01.",
    "not UTF-8": lambda value: value.replace(b"answer", b"\xff\xfe"),
    "deep": lambda _: b"[" * 100_000,
    "another form": lambda _: b"[1, 2]",
    "text": lambda value: value.decode(),
    "a number": lambda _: 7,
    "large": lambda value: value + b" " * 5_000,
    "another key": changed(lambda kept: kept.update(key="a" * 64)),
    "no key": changed(lambda kept: kept.pop("key")),
    "newer": changed(lambda kept: kept.update(version=2)),
    "a field more": changed(lambda kept: kept.update(run="rm -rf")),
    "a field more in the reply": changed(lambda kept: kept["reply"].update(run="rm")),
    "no reply": changed(lambda kept: kept.pop("reply")),
    "wrong type": changed(lambda kept: kept["reply"].update(text=["a"])),
    "wrong usage": changed(lambda kept: kept["reply"].update(usage={"requests": "x"})),
    "wrong cost": changed(lambda kept: kept["reply"].update(cost_usd="NaN")),
    "a cost that overflows": changed(
        lambda kept: kept["reply"].update(cost_usd="9E999999")
    ),
    "a cost that is too exact": changed(
        lambda kept: kept["reply"].update(cost_usd="1E-999999")
    ),
    "a cost below nothing": changed(lambda kept: kept["reply"].update(cost_usd="-1")),
    "too many tokens": changed(
        lambda kept: kept["reply"]["usage"].update(input_tokens=10**30)
    ),
    "fewer tokens than none": changed(
        lambda kept: kept["reply"]["usage"].update(output_tokens=-1)
    ),
    "no time": changed(lambda kept: kept.update(at="NaN")),
    "a time without end": lambda value: value.replace(b'"at":1000.0', b'"at":Infinity'),
    "no number of a time": lambda value: value.replace(b'"at":1000.0', b'"at":NaN'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_value_is_a_miss_and_is_reported_and_forgotten(
    staging: Staging,
    damage: Callable[[bytes], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store: Any = MemoryCacheStore()
    model = Teller()
    async with staging(
        model, plugins=[Offering(store)], store="mine", max_reply_bytes=4_000
    ) as staged:
        agent = staged.agent()
        await tell(agent)
        replace_value(store, damage)

        with caplog.at_level(logging.WARNING, "kaizen"):
            async with agent.stream(question="?") as run:
                result = await run.wait()
        again = await tell(agent)

    assert result.answer == again.answer == "answer 2"
    assert len(notes(run, "damaged")) == 1
    assert "damaged" in caplog.text


async def test_a_damaged_value_is_forgotten_also_where_no_other_takes_its_place(
    staging: Staging,
) -> None:
    store = MemoryCacheStore()
    cut = ModelReply(text="cut", finish_reason="odd")
    model = Teller("whole", cut)
    async with staging(model, plugins=[Offering(store)], store="mine") as staged:
        agent = staged.agent()
        await tell(agent)
        (key,) = store._kept
        await store.put(key, b"damaged", ttl_s=60)
        await tell(agent)

    assert len(store) == 0


@pytest.mark.parametrize("lengths", [[1], [3, -2], [900], [], [-7, 4, 4], "none"])
async def test_lengths_that_do_not_fit_are_words(staging: Staging, lengths: object) -> None:
    store: Any = MemoryCacheStore()
    async with staging(Teller(), plugins=[Offering(store)], store="mine") as staged:
        agent = staged.agent()
        await staged.stream(agent)
        told = None if lengths == "none" else lengths
        replace_value(store, changed(lambda kept: kept.update(lengths=told)))

        again, _ = await staged.stream(agent)

    assert again.pieces == ["answer", " 1"]


async def test_a_reply_that_is_too_large_is_not_kept_and_the_log_says_so(
    staging: Staging,
) -> None:
    model = Teller("x" * 5_000, "y" * 5_000)
    async with staging(model, max_reply_bytes=4_000) as staged:
        agent = staged.agent()
        async with agent.stream(question="?") as run:
            await run.wait()
        again = await tell(agent)

    assert again.answer == "y" * 5_000
    assert [each.data["reason"] for each in notes(run, "not_kept")] == ["it is too large"]


async def test_a_reply_that_json_cannot_hold_is_not_kept(staging: Staging) -> None:
    model = Teller("half a \ud83d character", "whole")
    async with staging(model) as staged:
        agent = staged.agent()
        async with agent.stream(question="?") as run:
            await run.wait()

        assert (await tell(agent)).answer == "whole"
    assert len(notes(run, "not_kept")) == 1


def asking_for(number: int, arguments: Any) -> ModelReply:
    use = ToolUse(id=f"id{number}", name="add", arguments=arguments)
    return ModelReply(
        tool_uses=(use,), usage=USED, finish_reason="tool_calls", provider_data=DATA
    )


async def test_replies_that_call_tools_are_not_kept_but_answers_to_results_are(
    staging: Staging,
) -> None:
    made: list[int] = []

    @tool(danger="safe")
    async def add(a: int) -> int:
        """Add."""
        made.append(a)
        return a

    model = Teller(asking_for(1, {"a": 1}), "it is 1", asking_for(2, {"a": 1}))
    async with staging(model) as staged:
        agent = staged.agent(tools=[add])
        first, again = await tell(agent), await tell(agent)

    # Although the ids of the calls are others.
    assert first.answer == again.answer == "it is 1"
    assert made == [1, 1]
    assert len(model.requests) == 3


async def test_with_cache_tool_calls_they_are_kept_and_the_tools_called_again(
    staging: Staging,
) -> None:
    made: list[int] = []

    @tool(danger="safe")
    async def add(a: int) -> int:
        """Add."""
        made.append(a)
        return a

    model = Teller(asking_for(1, {"a": 1}), "it is 1")
    async with staging(model, cache_tool_calls=True) as staged:
        agent = staged.agent(tools=[add])
        results = [await tell(agent) for _ in range(3)]

    assert [each.answer for each in results] == ["it is 1"] * 3
    assert made == [1, 1, 1]
    assert len(model.requests) == 2
    uses = [each.messages[2] for each in results]
    assert uses[0] == uses[1] == uses[2]
    assert uses[0].provider_data == DATA


class Vandal:
    """Changes what can be changed of each cached reply that it gets.

    Attributes:
        replies: What each reply was when it came.
    """

    name = "vandal"

    def __init__(self) -> None:
        self.replies: list[ModelReply] = []
        self.fresh: list[ModelReply] = []

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        reply = await call_next(request)
        self.replies.append(deepcopy(reply))
        if reply.cached:
            (use,) = reply.tool_uses
            cast(dict[str, int], use.arguments)["a"] = 666
            cast(dict[str, Any], reply.provider_data).clear()
        else:
            self.fresh.append(reply)
        return ModelReply(text="done")


async def test_nobody_can_change_the_reply_that_somebody_else_gets(
    staging: Staging,
) -> None:
    model, vandal = Teller(asking_for(1, {"a": 1})), Vandal()
    model.gate = anyio.Event()
    async with staging(model, plugins=[vandal], cache_tool_calls=True) as staged:
        agent = staged.agent()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(tell, agent)
            await following(staged, 2)
            model.gate.set()
        for _ in range(2):
            await tell(agent)

    assert len(model.requests) == 1
    for reply in (*vandal.replies, *vandal.fresh):
        assert [each.arguments for each in reply.tool_uses] == [{"a": 1}]
        assert reply.provider_data == DATA


async def test_what_another_process_kept_of_tool_calls_is_not_given(
    staging: Staging,
) -> None:
    offering, vandal = Offering(MemoryCacheStore()), Vandal()
    calling, saying = Teller(asking_for(1, "{}")), Teller("no tools")

    for model, keeps in ((calling, True), (saying, False)):
        async with staging(
            model, plugins=[offering, vandal], store="mine", cache_tool_calls=keeps
        ) as staged:
            await tell(staged.agent())

    assert [each.text for each in vandal.fresh] == ["", "no tools"]


async def test_the_plugin_leaves_nothing_behind(staging: Staging) -> None:
    plugin = CachePlugin(CacheSettings())
    async with Kernel(
        plugins=[plugin], discover=False, config_file=False, environ={}
    ) as kernel:
        during = kernel.hooks.names()
        await kernel.get(ModelCache, "default")

    assert [each for each in during if each.startswith("cache")] == [
        "cache:arrivals",
        "cache",
        "cache:answers",
    ]
    assert kernel.hooks.names() == ()


async def test_the_next_kernel_of_a_plugin_has_nothing_of_the_last_one() -> None:
    model, plugin = Teller(), CachePlugin(CacheSettings())
    answers = []
    for _ in range(2):
        async with Kernel(
            plugins=[ModelPlugin(model, "teller"), plugin],
            discover=False,
            config_file=False,
            environ={},
        ) as kernel:
            config = {"llm_provider": "teller", "cache_enabled": True}
            agent = BaseAgent(config, "question -> answer", kernel=kernel)
            answers += [(await tell(agent)).answer for _ in range(2)]

    assert answers == ["answer 1", "answer 1", "answer 2", "answer 2"]


async def test_a_note_holds_nothing_of_what_was_said(staging: Staging) -> None:
    async with staging(Teller("an answer of mine")) as staged:
        agent = staged.agent()
        await tell(agent, "a question of mine")
        async with agent.stream(question="a question of mine") as run:
            await run.wait()

    told = [each for each in run.log.entries if isinstance(each, Noted)]
    assert told
    assert "of mine" not in str(told)


@pytest.mark.parametrize("at", [1e300, 99_999_999_999, 1_000_100.0])
async def test_a_value_of_a_time_to_come_is_a_miss(
    staging: Staging, clock: Clock, at: float
) -> None:
    store = MemoryCacheStore(clock=lambda: 0.0)
    async with staging(Teller(), plugins=[Offering(store)], store="mine") as staged:
        agent = staged.agent({"cache_ttl": 60})
        await tell(agent)
        replace_value(store, changed(lambda kept: kept.update(at=at)))
        await clock.let_pass(1_000)

        assert (await tell(agent)).answer == "answer 2"


async def test_a_store_that_opens_slowly_is_opened_once_and_used_when_it_is_open(
    staging: Staging,
) -> None:
    opened: list[str] = []
    gate = anyio.Event()

    async def opening() -> CacheStore:
        opened.append("begun")
        await gate.wait()
        opened.append("open")
        return MemoryCacheStore()

    model = Teller()
    async with staging(
        model, plugins=[Offering(opening)], store="mine", store_timeout_s=0.02
    ) as staged:
        agent = staged.agent()
        before = [(await tell(agent)).answer for _ in range(3)]
        gate.set()
        with anyio.fail_after(10):
            while staged.cache._shelf._opening is not None:
                await checkpoint()
        after = [(await tell(agent)).answer for _ in range(3)]

    assert before == ["answer 1", "answer 2", "answer 3"]
    assert after == ["answer 4"] * 3
    assert opened == ["begun", "open"]


async def test_a_store_that_is_still_being_opened_does_not_keep_a_kernel_from_stopping(
    staging: Staging,
) -> None:
    with anyio.fail_after(10):
        offering = Offering(anyio.sleep_forever)
        async with staging(
            Teller(), plugins=[offering], store="mine", store_timeout_s=0.02
        ) as staged:
            assert (await tell(staged.agent())).answer == "answer 1"


async def test_a_store_that_hangs_is_waited_for_once_and_then_left_alone_for_a_while(
    staging: Staging, clock: Clock
) -> None:
    store = Failing(get=None)
    async with staging(
        Teller(), plugins=[Offering(store)], store="mine", store_timeout_s=0.02
    ) as staged:
        agent = staged.agent()
        for _ in range(5):
            await tell(agent)
        in_vain = store.asked.count("get")
        await clock.let_pass(5.1)
        store.mend()
        answers = [(await tell(agent)).answer for _ in range(2)]

    assert in_vain == 1
    assert store.asked == ["get", "get", "put", "get"]
    assert answers == ["answer 6", "answer 6"]


async def test_what_fails_again_and_again_is_logged_once_until_it_goes_well(
    staging: Staging, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Failing(put=OSError("away"))
    async with staging(Teller(), plugins=[Offering(store)], store="mine") as staged:
        agent = staged.agent()

        async def ask(times: int) -> int:
            caplog.clear()
            with caplog.at_level(logging.WARNING, "kaizen"):
                for _ in range(times):
                    await clock.let_pass(10)
                    await tell(agent, f"{clock.now}")
            return len(caplog.records)

        first = await ask(20)
        acts = store.mend()
        none = await ask(1)
        store.fail(acts)
        again = await ask(20)

    assert (first, none, again) == (1, 0, 1)


def loud(text: str) -> str:
    if not text.isupper():
        raise ValueError("must be upper case")
    return text


def broken(text: str) -> str:
    raise RuntimeError("a validator that is broken")


async def test_a_hit_that_does_not_fit_the_one_who_asks_is_a_miss(staging: Staging) -> None:
    def asking(*checks: object) -> type[Signature]:
        class Ask(Signature):
            """Answer."""

            question: str = InputField()
            answer: Annotated[str, *checks] = OutputField(max_length=10)

        return Ask

    says = [f'{{"answer": "{each}"}}' for each in ("low", "HIGH", "?")]
    model = Teller(*says)
    lax, strict = asking(AfterValidator(str)), asking(AfterValidator(loud))
    async with staging(model, scope="definition") as staged:
        config = {"max_output_retries": 0}
        one = staged.agent(config, signature=lax, agent_id="one")
        other = staged.agent(config, signature=strict, agent_id="other")
        answers = [(await tell(each)).answer for each in (one, other, other, one)]

    assert answers == ["low", "HIGH", "HIGH", "HIGH"]
    assert len(model.requests) == 2


async def test_who_waits_gets_no_reply_that_does_not_fit(staging: Staging) -> None:
    def asking(check: object) -> type[Signature]:
        class Ask(Signature):
            """Answer."""

            question: str = InputField()
            answer: Annotated[str, AfterValidator(check)] = OutputField(max_length=9)

        return Ask

    model = Teller('{"answer": "low"}', '{"answer": "HIGH"}')
    model.gate = anyio.Event()
    answers: dict[str, str] = {}

    async def ask(name: str, check: object) -> None:
        agent = staged.agent(signature=asking(check), agent_id=name)
        answers[name] = (await tell(agent)).answer

    async with (
        staging(model, scope="definition") as staged,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(ask, "lax", str)
        await model.asked.wait()
        tasks.start_soon(ask, "strict", loud)
        await following(staged, 1)
        model.gate.set()

    assert answers == {"lax": "low", "strict": "HIGH"}


async def test_a_validator_that_breaks_fails_where_the_run_reads_and_keeps_nothing(
    staging: Staging,
) -> None:
    class Ask(Signature):
        """Answer."""

        question: str = InputField()
        answer: Annotated[str, AfterValidator(broken)] = OutputField(max_length=9)

    model = Teller('{"answer": "a"}', '{"answer": "b"}')
    async with staging(model) as staged:
        agent = staged.agent(signature=Ask)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="that is broken") as caught:
                await tell(agent)

    assert len(model.requests) == 2
    assert "cache" not in "".join(getattr(caught.value, "__notes__", ()))
