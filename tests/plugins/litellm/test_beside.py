"""What an application does with litellm by itself does not change calls, nor they it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from kaizen import (
    ModelAuthError,
    ModelConnectionError,
    ModelError,
    ModelOverloadedError,
    ModelRequestError,
)
from kaizen_litellm._call import Call
from kaizen_litellm._errors import failed
from kaizen_litellm._watch import Watch

from tests.wire.server import WireServer

from .conftest import Opened, answered, asking
from .raw import RawServer, asked_at, completion, http

both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@pytest.fixture
def cached() -> Iterator[None]:
    """Let an application cache the answers of litellm."""
    from kaizen_litellm._loaded import litellm

    litellm.cache = litellm.Cache()
    yield
    litellm.cache = None


@pytest.mark.anyio
@pytest.mark.usefixtures("cached")
@both_ways
async def test_no_answer_comes_from_the_cache_of_an_application(
    wire: WireServer, opened: Opened, stream: bool
) -> None:
    wire.say("One.", "Two.")

    async with opened() as provider:
        replies = [
            (await answered(provider, asking(), stream=stream)).text for _ in range(2)
        ]
        vectors = [await provider.embed(["a"], model="embedder") for _ in range(2)]

    assert replies == ["One.", "Two."]
    assert all(b"caching" not in each.body for each in wire.requests)
    assert len(wire.requests) == 4
    assert vectors[0] == vectors[1]


@pytest.mark.anyio
async def test_no_key_is_shown_however_many_calls_fail_at_once() -> None:
    key = "sk-live-abcdef123"
    refused = http({"error": {"code": key, "message": "x"}}, status="401 No")
    errors: list[ModelError] = []

    with RawServer(refused) as server:
        async with asked_at(server, key=key) as provider:

            async def ask() -> None:
                with pytest.raises(ModelAuthError) as caught:
                    await provider.complete(asking())
                errors.append(caught.value)

            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(ask)

    assert len(errors) == 5
    assert all(key not in str(each) for each in errors)


@pytest.mark.anyio
async def test_a_cookie_is_not_kept() -> None:
    answers = {
        "openai": completion(),
        "anthropic": {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": "hi"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    }
    for way, answer in answers.items():
        with RawServer(http(answer, set_cookie="who=you; Path=/")) as server:
            async with asked_at(server, way) as provider:
                for _ in range(2):
                    await provider.complete(asking())

        assert len(server.requests) == 2
        assert all(b"cookie:" not in each.lower() for each in server.requests)


def test_how_litellm_connects_for_others_stays_its_own_affair() -> None:
    from kaizen_litellm._loaded import litellm

    assert litellm.disable_aiohttp_transport is False


class InternalServerError(Exception):
    status_code = 500


class APIConnectionError(Exception):
    status_code = 500


class AuthenticationError(Exception):
    status_code = 401


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InternalServerError("a bug"), ModelRequestError),
        (APIConnectionError("a bug"), ModelRequestError),
        (APIConnectionError("api_key is missing"), ModelAuthError),
        (AuthenticationError("no key"), ModelAuthError),
    ],
)
def test_what_fails_before_anything_is_sent_is_no_failure_of_a_provider(
    error: Exception, kind: type[ModelError]
) -> None:
    call = Call(None, Watch(""))  # type: ignore[arg-type]

    failure = failed("openai", error, call, key="", model="m")

    assert type(failure) is kind
    assert failure.status is None
    assert not failure.retryable
    assert not isinstance(failure, ModelOverloadedError | ModelConnectionError)


@pytest.mark.anyio
@both_ways
async def test_the_tools_of_a_request_stay_as_they_are(
    wire: WireServer, opened: Opened, stream: bool
) -> None:
    from .test_calls import WEATHER

    before: Any = json.dumps(WEATHER.parameters)

    async with opened("google") as provider:
        await answered(provider, asking(tools=(WEATHER,)), stream=stream)

    assert json.dumps(WEATHER.parameters) == before
