"""How it is found out which provider and model an agent asks."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    BaseProvider,
    Kernel,
    Message,
    ModelDelta,
    ModelReply,
    ModelRequest,
    Provider,
    ReasoningDelta,
    Registry,
    TextDelta,
    Usage,
    hookimpl,
    tool,
)
from kaizen.errors import (
    ConfigurationError,
    KaizenError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
    UnknownNameError,
)
from kaizen.hookspecs import ModelCall
from kaizen.messages import ToolUse
from kaizen.registry import first_available
from kaizen.runlog import ModelCharged, ModelReplied, ModelRequested, decode, encode
from kaizen.testing import MemoryCheckpointStore

pytestmark = pytest.mark.anyio


class Named(BaseProvider):
    """Answers with its own name and the model's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests: list[ModelRequest] = []

    async def complete(self, request: ModelRequest) -> ModelReply:
        self.requests.append(request)
        return ModelReply(text=f"{self.name}: {request.model}")


class Offering:
    """Offers providers, each with what is said of it."""

    def __init__(self, name: str = "offering", **offers: dict[str, Any]) -> None:
        self.name = name
        self.providers = {each: Named(f"{name} {each}") for each in offers}
        self._offers = offers

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        for name, offer in self._offers.items():
            registry.add(Provider, name, self.providers[name], **offer)


async def answer_of(*plugins: object, config: Any = None, **kernel: Any) -> str:
    """Return who answered an agent, and as which model."""
    made = Kernel(plugins=plugins, discover=False, config=kernel, config_file=False)
    async with made:
        agent = BaseAgent(config, "question -> answer", kernel=made)
        return str((await agent.run(question="?")).answer)


# Which provider.


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        ({"llm_provider": "openai", "model": "gpt"}, "plain openai: gpt"),
        ({"llm_provider": "openai/gpt"}, "plain openai: gpt"),
        ({"model": "openai/gpt"}, "plain openai: gpt"),
        ({"llm_provider": "hub", "model": "meta/llama"}, "plain hub: meta/llama"),
        ({"llm_provider": "hub/meta/llama"}, "plain hub: meta/llama"),
        ({"llm_provider": "groq", "model": "llama"}, "plain route: groq/llama"),
        ({"llm_provider": "groq/llama"}, "plain route: groq/llama"),
        ({"model": "groq/llama"}, "plain route: groq/llama"),
        ({"llm_provider": "route", "model": "groq/llama"}, "plain route: groq/llama"),
    ],
)
async def test_provider_and_model_may_be_one_word(
    config: dict[str, str], answer: str
) -> None:
    plain = Offering("plain", openai={}, hub={}, route={"routes": ["groq"]})

    assert await answer_of(plain, config=config) == answer


async def test_without_a_route_an_unknown_provider_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="groq"):
        await answer_of(Offering(openai={}), config={"llm_provider": "groq", "model": "m"})


@pytest.mark.parametrize(
    ("kernel", "config"),
    [
        ({}, {"llm_provider": "opanai"}),
        ({}, {"llm_provider": "opanai/gpt"}),
        ({}, {"llm_provider": "OpenAI", "model": "gpt"}),
        ({}, {"model": "opanai/gpt"}),
        ({"default_provider": "opanai"}, {}),
        ({"default_provider": "opanai/gpt"}, {}),
    ],
)
async def test_a_typo_is_no_route_and_the_name_that_was_meant_is_said(
    kernel: dict[str, str], config: dict[str, str]
) -> None:
    plain = Offering("plain", openai={}, hub={}, route={"routes": ["groq", "xai"]})

    with pytest.raises(UnknownNameError) as caught:
        await answer_of(plain, config=config, **kernel)

    assert "Did you mean 'openai'?" in str(caught.value)
    assert "Known: hub, openai, route." in str(caught.value)
    assert "'route' takes 2 other names." in str(caught.value)


async def test_a_route_may_be_what_was_meant() -> None:
    names = {"groq", "mistral", *(f"other{i}" for i in range(99))}
    plain = Offering("plain", openai={}, route={"routes": names})

    for config in ({"llm_provider": "gorq", "model": "m"}, {"llm_provider": "Groq/m"}):
        with pytest.raises(UnknownNameError) as caught:
            await answer_of(plain, config=config)
        assert "Did you mean 'groq'?" in str(caught.value)
        assert caught.value.known == ("groq", "openai", "route")


async def test_a_models_name_with_a_slash_is_no_typo() -> None:
    def here() -> bool:
        return True

    found: dict[str, Any] = {"preference": 1, "available": here}
    routes = ["ai21", "deepseek", "meta_llama", "mistral", "moonshot", "xai", "zai"]
    plain = Offering("plain", ollama=found, docker={}, route={"routes": routes})

    for model in (
        "ai/smollm2",
        "deepseek-ai/r1",
        "docker.io/ai/smollm2",
        "hf.co/meta/llama",
        "meta-llama/llama",
        "mistralai/small",
        "moonshotai/k2",
        "x-ai/grok",
    ):
        assert await answer_of(plain, config={"model": model}) == f"plain ollama: {model}"


def test_routes_are_many_names_and_not_one_text() -> None:
    routes: Any = "groq"

    with pytest.raises(TypeError, match="write \\['groq'\\]"):
        Registry().add(Provider, "route", object(), routes=routes)


async def test_the_kernels_default_may_be_one_word_as_well() -> None:
    plain = Offering("plain", openai={})

    assert await answer_of(plain, default_provider="openai/gpt") == "plain openai: gpt"
    assert (
        await answer_of(plain, default_provider="openai", config={"model": "a/b"})
        == "plain openai: a/b"
    )


async def test_the_default_provider_goes_before_who_takes_a_name() -> None:
    plain = Offering("plain", hub={}, openai={}, route={"routes": ["meta"]})

    for model, answer in (
        ("meta/llama", "plain hub: meta/llama"),
        ("openai/gpt", "plain openai: gpt"),
    ):
        config = {"model": model}
        assert await answer_of(plain, config=config, default_provider="hub") == answer


async def test_of_two_offers_of_a_name_the_higher_rank_is_taken_in_any_order() -> None:
    heavy = Offering("heavy", openai={"rank": -1}, cohere={"rank": -1})
    light = Offering("light", openai={})
    preferred = Offering("preferred", openai={"rank": 1})

    for plugins in ([heavy, light], [light, heavy]):
        config = {"llm_provider": "openai"}
        assert await answer_of(*plugins, config=config) == "light openai: "
        config = {"llm_provider": "cohere"}
        assert await answer_of(*plugins, config=config) == "heavy cohere: "
    three = (light, preferred, heavy)
    config = {"llm_provider": "openai"}
    assert await answer_of(*three, config=config) == "preferred openai: "


def test_an_offer_that_was_outranked_is_there_again_when_the_other_is_gone() -> None:
    registry = Registry()
    for rank, plugin in ((0, "b"), (-1, "a"), (1, "c")):
        registry.add(Provider, "openai", object(), plugin=plugin, rank=rank)

    left = []
    for plugin in ("c", "b", "a"):
        left.append(registry.find(Provider, "openai").plugin)
        registry.remove_plugin(plugin)

    assert left == ["c", "b", "a"]
    assert registry.names(Provider) == ()


def test_two_offers_of_the_same_rank_are_an_error() -> None:
    registry = Registry()
    registry.add(Provider, "openai", object(), plugin="a", rank=-1)

    with pytest.raises(ConfigurationError, match="already"):
        registry.add(Provider, "openai", object(), plugin="b", rank=-1)


# What can be used right now.


def offers(**known: tuple[int | None, Callable[[], bool | Awaitable[bool]] | None]) -> Any:
    registry = Registry()
    for name, (preference, available) in known.items():
        registry.add(
            Provider, name, object(), preference=preference, available=available, plugin="p"
        )
    return registry.offers(Provider)


async def yes() -> bool:
    return True


async def never() -> bool:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_key_goes_before_a_server_and_each_by_its_preference() -> None:
    def no() -> bool:
        return False

    def key() -> bool:
        return True

    assert await first_available(offers(b=(2, key), a=(1, no), c=(3, key))) == "b"
    assert await first_available(offers(server=(1, yes), key=(9, key))) == "key"
    assert await first_available(offers(b=(2, yes), a=(1, yes), c=(0, no))) == "a"
    assert await first_available(offers(a=(None, key), b=(1, None))) == ""
    assert await first_available(offers()) == ""


async def test_servers_are_looked_for_at_once_and_none_is_waited_for_long() -> None:
    known = {f"slow{i}": (i, never) for i in range(20)}

    with anyio.fail_after(5):
        assert await first_available(offers(**known, there=(99, yes))) == "there"


async def test_who_cannot_say_whether_it_is_there_is_not_and_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> bool:
        raise OSError("no sockets")

    async def broken_later() -> bool:
        raise OSError("no luck")

    found = await first_available(offers(a=(1, broken), b=(2, broken_later), c=(3, yes)))

    assert found == "c"
    warned = [
        each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING
    ]
    assert [("no sockets" in each, "no luck" in each) for each in warned] == [
        (True, False),
        (False, True),
    ]


async def test_an_agent_that_names_no_provider_gets_one_that_can_be_used() -> None:
    plain = Offering(
        "plain",
        openai={"preference": 1, "available": lambda: False},
        ollama={"preference": 2, "available": lambda: True},
    )

    assert await answer_of(plain) == "plain ollama: "
    assert await answer_of(plain, config={"model": "m"}) == "plain ollama: m"


async def test_where_nothing_can_be_used_the_error_says_so_and_names_the_way_out() -> None:
    plain = Offering(openai={"preference": 1, "available": lambda: False})

    with pytest.raises(ConfigurationError, match="offline") as caught:
        await answer_of(plain)

    assert "openai" in str(caught.value)


# Requests that go elsewhere, and replies that break off.


class Elsewhere:
    """Sends each request to another provider and model."""

    name = "elsewhere"

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        return await call_next(replace(request, provider="other", model="big"))


async def test_middleware_may_send_a_request_to_another_provider() -> None:
    plain = Offering("plain", openai={}, other={})
    store = MemoryCheckpointStore()
    async with Kernel(plugins=[plain, Elsewhere()], config_file=False) as kernel:
        agent = BaseAgent(
            {"llm_provider": "openai"}, "question -> answer", kernel=kernel, store=store
        )
        result = await agent.run(question="?")

    assert result.answer == "plain other: big"
    entries = [decode(each) for each in await store.read(result.run_id)]
    (asked,) = [each for each in entries if isinstance(each, ModelRequested)]
    assert (asked.provider, asked.model) == ("other", "big")


class Breaking(BaseProvider):
    """Breaks off in the middle, once."""

    name = "breaking"

    def __init__(self) -> None:
        self.caught: list[ModelError] = []

    async def complete(self, request: ModelRequest) -> ModelReply:
        if self.caught:
            return ModelReply(text='{"answer": "x"}', reasoning="hm", cached=True)
        error = ModelConnectionError(self.name, "broke off")
        spent = Usage(requests=1, input_tokens=7, output_tokens=3)
        error.partial = ModelReply(text="?", usage=spent, cost_usd=Decimal("0.5"))
        self.caught.append(error)
        raise error

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        yield ModelDelta(reasoning="hm")
        yield ModelDelta(text='{"ans')
        yield ModelDelta(text='wer"')
        yield ModelDelta()
        yield await self.complete(request)


class Again:
    """Tries once more."""

    name = "again"

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        try:
            return await call_next(request)
        except ModelError:
            return await call_next(request)


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_attempt_that_broke_off_is_on_the_account(streamed: bool) -> None:
    provider = Breaking()

    class Brings:
        name = "brings"

        @hookimpl
        def contribute(self, registry: Registry) -> None:
            registry.add(Provider, "breaking", provider)

    events: list[Any] = []
    async with Kernel(plugins=[Brings(), Again()], config_file=False) as kernel:
        agent = BaseAgent({"llm_provider": "breaking"}, "question -> answer", kernel=kernel)
        if streamed:
            async with agent.stream(question="?") as run:
                events.extend([event async for event in run])
                result = await run.wait()
        else:
            result = await agent.run(question="?")

    assert (result.usage.input_tokens, result.cost_usd) == (7, Decimal("0.5"))
    (error,) = provider.caught
    assert error.partial is not None
    assert error.partial.text == ('{"answer"' if streamed else "?")
    if streamed:
        kinds = [type(each) for each in events]
        assert kinds.count(ModelCharged) == 1
        assert kinds.count(TextDelta) == 4
        assert kinds.count(ReasoningDelta) == 2
        assert run.log.pulse == 8  # an empty piece is a sign of life
        (replied,) = [each for each in events if isinstance(each, ModelReplied)]
        assert (replied.reasoning, replied.cached) == ("hm", True)


async def test_what_a_provider_wants_back_comes_with_the_next_turn_and_is_kept() -> None:
    class Signing(Named):
        async def complete(self, request: ModelRequest) -> ModelReply:
            self.requests.append(request)
            if len(self.requests) == 1:
                return ModelReply(
                    tool_uses=(ToolUse(id="1", name="nothing", arguments={}),),
                    provider_data={"signing": {"signature": "abc"}},
                )
            return ModelReply(text='{"answer": "x"}')

    @tool(danger="safe")
    def nothing() -> str:
        """Do nothing."""
        return "done"

    signing = Signing("signing")
    plain = Offering("plain", signing={})
    plain.providers["signing"] = signing
    async with Kernel(plugins=[plain], config_file=False) as kernel:
        agent = BaseAgent(
            {"llm_provider": "signing"},
            "question -> answer",
            kernel=kernel,
            tools=[nothing],
        )
        async with agent.stream(question="?") as run:
            await run.wait()

    (said,) = [each for each in signing.requests[1].messages if each.role == "assistant"]
    assert said.provider_data == {"signing": {"signature": "abc"}}
    again = [decode(encode(each)) for each in run.log.entries]
    assert next(each for each in again if isinstance(each, ModelReplied)).message == said


async def test_provider_data_that_json_cannot_hold_are_an_error() -> None:
    class Odd(Named):
        async def complete(self, request: ModelRequest) -> ModelReply:
            return ModelReply(text='{"answer": "x"}', provider_data={"odd": object()})

    plain = Offering("plain", odd={})
    plain.providers["odd"] = Odd("odd")

    with pytest.raises(TypeError, match="provider_data"):
        await answer_of(plain, config={"llm_provider": "odd"})


def test_errors_of_models_say_by_their_kind_whether_to_try_again() -> None:
    limit = ModelRateLimitError("openai", "is asked too often", retry_after_s=2.5)
    own = ModelConnectionError("openai", "is gone", "", False, 502)

    assert (limit.retryable, limit.retry_after_s, limit.code) == (True, 2.5, "AGENT_004")
    assert (own.retryable, own.status) == (False, 502)
    again: KaizenError = type(limit)(*limit.args)
    assert again.args == limit.args


def test_a_provider_says_by_its_profile_whether_a_model_calls_tools() -> None:
    assert Named("x").supports_tools()
    assert Message(role="user", content="x").provider_data is None


async def test_a_stream_that_ends_without_a_reply_has_broken_off() -> None:
    class Silent(Named):
        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            yield ModelDelta(text="half")

    plain = Offering("plain", silent={})
    plain.providers["silent"] = Silent("silent")

    with pytest.raises(ModelConnectionError, match="without a reply") as caught:
        await answer_of(plain, config={"llm_provider": "silent", "stream": True})

    assert caught.value.retryable
    assert caught.value.partial == ModelReply(text="half")


async def test_a_reply_that_is_given_again_is_known_to_cost_nothing() -> None:
    class Remembering:
        """Knows the answer."""

        name = "remembering"

        @hookimpl
        async def wrap_model_call(
            self, request: ModelRequest, call_next: ModelCall
        ) -> ModelReply:
            return ModelReply(text="x", cached=True)

    async with Kernel(
        plugins=[Offering(one={}), Remembering()],
        discover=False,
        config={"default_provider": "one"},
        config_file=False,
        environ={},
    ) as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        result = await agent.run(question="?")

    assert result.cost_usd == Decimal(0)
    assert result.usage == Usage()
