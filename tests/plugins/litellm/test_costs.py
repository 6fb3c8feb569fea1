"""What is charged in another way than by tokens at their usual price has no cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kaizen_litellm import ProviderSettings
from kaizen_litellm import _prices as prices
from kaizen_litellm._keys import Keys
from kaizen_litellm._prices import Catalogue, Counts, read_table
from kaizen_litellm._settings import LitellmSettings
from kaizen_litellm._shop import Shop
from kaizen_litellm._targets import target

from .conftest import Opened, answered, asking

COUNTED = Counts(input=1_000, output=1_000, known=True)


@contextmanager
def saying(answer: Any) -> Iterator[str]:
    """Answer each request with the same, as JSON or as events; give the address."""
    if isinstance(answer, list):
        kind = "text/event-stream"
        body = b"".join(b"data: %s\n\n" % json.dumps(each).encode() for each in answer)
    else:
        kind, body = "application/json", json.dumps(answer).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def anthropics(usage: Mapping[str, Any], *, stream: bool) -> Any:
    """Return an answer of Anthropic's with a thousand tokens each way."""
    counts = {"input_tokens": 1_000, "output_tokens": 1_000, **usage}
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-6",
        "content": [{"type": "text", "text": "Yes."}],
        "stop_reason": "end_turn",
        "usage": counts,
    }
    if not stream:
        return message
    start = {**message, "content": [], "stop_reason": None}
    block = {"type": "text", "text": ""}
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Yes."},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 1_000},
        },
        {"type": "message_stop"},
    ]


def googles(more: Mapping[str, Any], *, stream: bool) -> Any:
    """Return an answer of Gemini's with a thousand tokens each way."""
    counts = {"promptTokenCount": 1_000, "candidatesTokenCount": 1_000}
    answer = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [{"text": "Yes."}]},
                "finishReason": "STOP",
                "index": 0,
                **more,
            }
        ],
        "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {**counts, "totalTokenCount": 2_000},
    }
    return [answer] if stream else answer


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("usage", "known"),
    [
        ({}, True),
        ({"service_tier": "standard", "inference_geo": "global"}, True),
        ({"speed": "standard"}, True),
        ({"server_tool_use": {"web_search_requests": 0}}, True),
        ({"server_tool_use": {"web_search_requests": 2}}, False),
        ({"service_tier": "priority"}, False),
        ({"speed": "fast"}, False),
        ({"inference_geo": "us"}, False),
    ],
)
async def test_what_claude_charges_besides_is_not_left_out_of_a_cost(
    opened: Opened, usage: dict[str, Any], known: bool, stream: bool
) -> None:
    with saying(anthropics(usage, stream=stream)) as url:
        environ = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "k"}
        async with opened("anthropic", environ=environ, model="claude-opus-4-6") as asked:
            reply = await answered(asked, asking(), stream=stream)

    assert reply.usage.output_tokens == 1_000
    assert reply.cost_usd == (Decimal("0.03") if known else None)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("searched", [False, True])
async def test_what_google_looked_up_is_not_left_out_of_a_cost(
    opened: Opened, searched: bool, stream: bool
) -> None:
    looked_up = {"groundingMetadata": {"webSearchQueries": ["a", "b"]}} if searched else {}

    with saying(googles(looked_up, stream=stream)) as url:
        environ = {"GOOGLE_GEMINI_BASE_URL": url, "GOOGLE_API_KEY": "k"}
        async with opened("google", environ=environ) as provider:
            reply = await answered(provider, asking(), stream=stream)

    assert reply.cost_usd == (None if searched else Decimal("0.0028"))


@pytest.mark.parametrize(
    ("host", "cost"),
    [
        ("", Decimal(0)),
        ("0.0.0.0:8080", Decimal(0)),
        ("http://gpu-box:11434", Decimal(0)),
        ("https://ollama.com", None),
        ("http://93.184.216.34", None),
    ],
)
def test_ollama_is_free_where_one_runs_it_oneself(host: str, cost: Decimal | None) -> None:
    keys = Keys({"OLLAMA_HOST": host})
    known = target("ollama", ProviderSettings(), keys)
    catalogue = Shop(LitellmSettings(), keys).catalogue(known)

    assert known.local is (cost is not None)
    assert catalogue.cost(COUNTED, "gpt-oss:120b") == cost


def test_a_line_of_zeros_in_the_table_is_no_price() -> None:
    table = {
        "free": {
            "litellm_provider": "openai",
            "input_cost_per_token": 0,
            "output_cost_per_token": 0.0,
        },
        "vectors": {
            "litellm_provider": "openai",
            "input_cost_per_token": 1e-06,
            "output_cost_per_token": 0.0,
        },
    }
    catalogue = Catalogue("openai", ("openai",), table)

    assert catalogue.cost(COUNTED, "free") is None
    assert catalogue.cost(COUNTED, "vectors") == Decimal("0.001")


def test_the_table_has_lines_of_zeros() -> None:
    cohere = Catalogue("cohere", ("cohere_chat", "cohere"), read_table())

    assert cohere.find("command-a-plus-05-2026")
    assert cohere.cost(COUNTED, "command-a-plus-05-2026") is None


@pytest.mark.parametrize("content", [None, b"{nonsense"])
def test_a_table_that_cannot_be_read_is_an_empty_one(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
) -> None:
    file = tmp_path / "table.json"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(prices, "_FILE", str(file))

    assert read_table() == {}
    assert "table of models" in caplog.text
