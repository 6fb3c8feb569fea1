"""Bytes become events wherever the network cuts them."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from kaizen import ModelDelta
from kaizen_direct._anthropic import AnthropicAssembly, AnthropicCodec
from kaizen_direct._endpoints import PRESETS
from kaizen_direct._ollama import OllamaAssembly, OllamaCodec
from kaizen_direct._openai import OpenAiAssembly, OpenAiCodec
from kaizen_direct._streams import Events, Lines, Splitter, TooLong, _Held
from kaizen_direct._wire import Failed, Seam, Unreadable, as_json, parsed

EVENTS = ['{"a": "ö"}', "[DONE]", '{"b": 2}']


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("space", [" ", ""])
@pytest.mark.parametrize("name", ["", "event: message{end}"])
def test_events_are_whole_wherever_they_were_cut(end: str, space: str, name: str) -> None:
    stream = f": hello{end}{end}" + "".join(
        f"{name.format(end=end)}data:{space}{each}{end}id: 1{end}{end}" for each in EVENTS
    )
    data = stream.encode()

    for size in (1, 2, 3, 7, len(data)):
        splitter = Events(1_000)
        found = fed(splitter, data, size)
        assert [each.decode() for each in found] == EVENTS, size


def test_data_in_several_lines_is_one_event() -> None:
    assert fed(Events(1_000), b'data: {"a":\ndata: 1}\n\n', 4) == [b'{"a":\n1}']


def test_an_event_of_many_lines_is_put_together_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined: list[int] = []
    take = _Held.take

    def counting(held: _Held, data: bytes = b"") -> bytes:
        joined.append(len(data))
        return take(held, data)

    monkeypatch.setattr(_Held, "take", counting)
    splitter = Events(100_000)

    for end in (b"\n", b"\r\n"):
        for _ in range(1_000):
            assert splitter.feed(b"data: x" + end) == []
        assert splitter.feed(end) == [b"\n".join([b"x"] * 1_000)]
        assert splitter.feed(b"") == []

    assert len(joined) == 2


def test_a_mark_of_order_at_the_beginning_is_left_out() -> None:
    assert fed(Events(1_000), b"\xef\xbb\xbfdata: 1\n\n", 50) == [b"1"]


def test_the_last_mark_needs_no_empty_line() -> None:
    for end in (b"", b"\n", b"\r\n"):
        splitter = Events(1_000)
        assert splitter.feed(b"data: [DONE]" + end) == []
        assert splitter.rest() == [b"[DONE]"]
    splitter = Events(1_000)
    splitter.feed(b'data: {"half": ')
    assert splitter.rest() == []


def test_lines_are_whole_wherever_they_were_cut() -> None:
    data = '{"a": "ö"}\n\n{"b": 2}\r\n{"c": 3}'.encode()

    for size in (1, 2, 5, len(data)):
        found = [json.loads(each) for each in fed(Lines(1_000), data, size)]
        assert found == [{"a": "ö"}, {"b": 2}, {"c": 3}]


@pytest.mark.parametrize("splitter", [Events(100), Lines(100)])
def test_a_piece_that_is_too_long_is_refused(splitter: Splitter) -> None:
    splitter.feed(b"data: " + b"x" * 60)
    with pytest.raises(TooLong):
        splitter.feed(b"x" * 60)


@pytest.mark.parametrize(
    ("blanks", "pieces", "rest"),
    [
        ("", [" a"], " a"),
        (" ", [" a"], "a"),
        (" ", ["a"], "a"),
        (" \n", [" ", "\n", " a"], " a"),
        (" \n", [" b\n"], "b\n"),
        ("\n\n", ["\na"], "a"),
        (" ", ["a", " b"], "a b"),
    ],
)
def test_blanks_at_a_seam_stand_there_once(
    blanks: str, pieces: list[str], rest: str
) -> None:
    seam = Seam(blanks)

    assert "".join(seam.without(piece) for piece in pieces) == rest


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"a\\ud83d"', "a\ufffd"),
        (b'"\\uDE00b"', "\ufffdb"),
        (b'"\\ud83dx\\ude00"', "\ufffdx\ufffd"),
        (b'"\\ud83d\\ud83d\\ude00"', "\ufffd\U0001f600"),
        (rb'"\\ud83d \ud83d"', "\\ud83d \ufffd"),
        (rb'"\\\ud83d \\ude00"', "\\\ufffd \\ude00"),
        ('"\U0001f600"'.encode(), "\U0001f600"),
    ],
)
def test_halves_of_characters_are_marked(data: bytes, text: str) -> None:
    assert parsed(data) == text


@pytest.mark.parametrize("data", [b"", b"{", b'{"a":}', b'"\xff"', b"[" * 5_000, b"{}{}"])
def test_what_is_no_json_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parsed(data)


def test_any_mapping_can_be_sent_and_no_number_is_null() -> None:
    value = MappingProxyType({"a": MappingProxyType({"b": float("nan")})})

    assert as_json(value) == b'{"a":{"b":null}}'
    with pytest.raises(ValueError):  # noqa: PT011
        as_json({"a": object()})


def chunk(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta}]}


def test_pieces_of_tool_calls_are_told_apart_by_number_or_by_id() -> None:
    def piece(arguments: str, **more: Any) -> dict[str, Any]:
        return {"function": {"arguments": arguments}, **more}

    for numbered in (True, False):
        assembly = OpenAiAssembly()
        for place, call_id in enumerate(("a", "b")):
            index = {"index": place} if numbered else {}
            start = {"id": call_id, "function": {"name": f"f{call_id}"}} | index
            assembly.add(chunk(tool_calls=[start]))
            assembly.add(chunk(tool_calls=[piece('{"x":', **index)]))
            assembly.add(chunk(tool_calls=[piece(" 1}", **index)]))
        assembly.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

        answer = assembly.answer()
        assert [(use.id, use.name, use.arguments) for use in answer.tool_uses] == [
            ("a", "fa", '{"x": 1}'),
            ("b", "fb", '{"x": 1}'),
        ]
        assert answer.finish_reason == "tool_calls"


def test_calls_that_are_all_numbered_0_are_told_apart_by_their_ids() -> None:
    assembly = OpenAiAssembly()
    for call_id in ("a", "b"):
        call = {"index": 0, "id": call_id, "function": {"name": "f", "arguments": "{}"}}
        assembly.add(chunk(tool_calls=[call]))
    assembly.add({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})

    assert [use.id for use in assembly.answer().tool_uses] == ["a", "b"]


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, "a", "f", ""), (0, "", "", "{}"), (0, "b", "f", ""), (0, "", "", "{}")],
        [(0, "a", "f", "{"), (0, "a", "", "}"), (0, "b", "f", "{"), (0, "b", "", "}")],
        [(None, "a", "f", "{"), (None, "", "", "}"), (None, "b", "f", "{}")],
        [(None, "a", "f", "{"), (None, "a", "", "}"), (None, "b", "f", "{}")],
        [(0, "a", "f", "{"), (1, "b", "f", "{"), (0, "a", "", "}"), (1, "b", "", "}")],
        [(0, "a", "f", "{"), (1, "b", "f", "{"), (0, "", "", "}"), (1, "", "", "}")],
        [(0, "", "f", "{"), (0, "a", "", "}"), (1, "", "f", "{}"), (1, "b", "", "")],
    ],
)
def test_pieces_of_calls_find_each_other_however_a_server_numbers_them(
    pieces: list[tuple[int | None, str, str, str]],
) -> None:
    assembly = OpenAiAssembly()
    for index, call_id, name, arguments in pieces:
        piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
        piece |= {"index": index} if index is not None else {}
        piece |= {"id": call_id} if call_id else {}
        assembly.add(chunk(tool_calls=[piece]))
    assembly.add({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})

    uses = assembly.answer().tool_uses

    assert [(use.id, use.name, use.arguments) for use in uses] == [
        ("a", "f", "{}"),
        ("b", "f", "{}"),
    ]


def test_a_tool_call_that_is_being_written_is_a_sign_of_life() -> None:
    openai, anthropic, ollama = OpenAiAssembly(), AnthropicAssembly("a"), OllamaAssembly()
    call = {"function": {"name": "f", "arguments": "{"}}
    start = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    more = {"type": "input_json_delta", "partial_json": "{"}

    for delta in (
        openai.add(chunk(tool_calls=[call])),
        anthropic.add({"type": "content_block_start", "index": 0, "content_block": start}),
        anthropic.add({"type": "content_block_delta", "index": 0, "delta": more}),
        ollama.add({"message": {"content": "", "tool_calls": [call]}}),
    ):
        assert delta == ModelDelta()
    assert openai.add(chunk(content="")) is None
    assert anthropic.add({"type": "ping"}) is None


def test_of_several_choices_the_first_is_taken() -> None:
    assembly = OpenAiAssembly()
    assembly.add({"choices": [{"index": 1, "delta": {"content": "no"}}]})
    assembly.add({"choices": [{"index": 0, "delta": {"content": "yes"}}]})

    said = {"choices": [{"message": {"content": text}} for text in ("yes", "no")]}
    assert assembly.answer().text == "yes"
    assert OpenAiCodec(PRESETS["openai"]).read(said).text == "yes"


def test_a_refusal_is_text_that_the_filter_ended() -> None:
    assembly = OpenAiAssembly()
    assert assembly.add(chunk(refusal="I will not.")) == ModelDelta(text="I will not.")
    assembly.add({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    message = {"content": None, "refusal": "I will not."}
    said = {"choices": [{"message": message, "finish_reason": "stop"}]}

    for answer in (assembly.answer(), OpenAiCodec(PRESETS["openai"]).read(said)):
        assert (answer.text, answer.finish_reason) == ("I will not.", "content_filter")


def test_text_in_parts_is_put_together() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "new"}, {"type": "text", "text": "b"}]
    said = {"choices": [{"message": {"content": parts, "audio": None}}]}

    assert OpenAiCodec(PRESETS["openai"]).read(said).text == "ab"


@pytest.mark.parametrize("counted", [None, {}, {"prompt_tokens": None}, "many", -1, 1.5])
def test_counts_that_are_none_count_nothing(counted: Any) -> None:
    usage = {"prompt_tokens": counted, "completion_tokens": counted}
    said = {"choices": [{"message": {"content": "a"}}], "usage": usage}

    counts = OpenAiCodec(PRESETS["openai"]).read(said).counts

    assert (counts.input, counts.output) == (0, 0)


@pytest.mark.parametrize("service_tier", ["priority", "flex", "something new"])
def test_what_is_charged_otherwise_has_no_known_price(service_tier: str) -> None:
    said = {
        "choices": [{"message": {"content": "a"}}],
        "usage": {"prompt_tokens": 1},
        "service_tier": service_tier,
    }

    assert OpenAiCodec(PRESETS["openai"]).read(said).counts.odd


ODD: list[Any] = [
    None,
    1,
    "text",
    [],
    {},
    {"choices": {}},
    {"choices": [1]},
    {"choices": [{"message": 1}]},
    {"choices": [{"message": {"content": 1}}]},
    {"choices": [{"message": {"tool_calls": [1]}}]},
    {"choices": [{"message": {"tool_calls": [{"function": {"name": 1}}]}}]},
    {"content": 1},
    {"content": [{"type": "tool_use", "id": 1}]},
    {"content": [{"type": "text", "text": 1}]},
    {"message": {"content": 1}},
    {"message": {"content": "a", "tool_calls": [1]}, "done": True},
]


@pytest.mark.parametrize("said", ODD)
def test_what_is_no_answer_is_said_to_be_none(said: Any) -> None:
    for codec in (
        OpenAiCodec(PRESETS["openai"]),
        AnthropicCodec(PRESETS["anthropic"]),
        OllamaCodec(PRESETS["ollama"]),
    ):
        with pytest.raises(Unreadable):
            codec.read(said)


@pytest.mark.parametrize(
    "event",
    [
        *ODD[:4],
        {"wire": 1},
        {"type": "content_block_delta", "index": 0, "delta": {}},
        {"type": "content_block_start", "index": 0},
        {"type": "message_start"},
        {"type": "message_delta"},
        {"choices": [{"delta": {"tool_calls": 1}}]},
        {"choices": [{"delta": {"content": 1}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": 1}]}}]},
    ],
)
def test_what_is_no_event_is_said_to_be_none(event: Any) -> None:
    known = {"OpenAi": ("choices",), "Anthropic": ("type",), "Ollama": ()}
    for assembly in (OpenAiAssembly(), AnthropicAssembly("anthropic"), OllamaAssembly()):
        keys = known[type(assembly).__name__.removesuffix("Assembly")]
        if isinstance(event, dict) and event and not set(keys) & event.keys() and keys:
            event = {"wire": 1}
        with pytest.raises(Unreadable):
            assembly.add(event)


def test_what_is_new_in_a_stream_is_passed_over() -> None:
    anthropic = AnthropicAssembly("anthropic")
    openai = OpenAiAssembly()

    assert anthropic.add({"type": "something_new", "x": 1}) is None
    assert openai.add({"choices": [], "prompt_filter_results": []}) is None
    assert openai.add({"choices": [{"delta": {"new": 1}}], "new": []}) is None


def test_thoughts_that_are_hidden_are_kept_for_who_thought_them() -> None:
    hidden = {"type": "redacted_thinking", "data": "x"}
    said = {"content": [hidden, {"type": "text", "text": "a"}], "stop_reason": "end_turn"}

    answer = AnthropicCodec(PRESETS["anthropic"]).read(said)

    assert answer.provider_data == {"anthropic": {"thinking": [hidden]}}
    assert (answer.text, answer.reasoning) == ("a", "")


@pytest.mark.parametrize(
    ("assembly", "event"),
    [
        (OpenAiAssembly(), {"error": {"message": "no"}}),
        (
            OpenAiAssembly(),
            {
                "error": {"code": 502, "message": "no"},
                "choices": [{"delta": {"content": ""}, "finish_reason": "error"}],
            },
        ),
        (AnthropicAssembly("a"), {"type": "error", "error": {"type": "overloaded_error"}}),
        (OllamaAssembly(), {"error": "no"}),
    ],
)
def test_an_event_that_says_that_it_failed_is_heard(assembly: Any, event: Any) -> None:
    with pytest.raises(Failed):
        assembly.add(event)


def fed(splitter: Splitter, data: bytes, size: int) -> list[bytes]:
    found: list[bytes] = []
    for start in range(0, len(data), size):
        found += splitter.feed(data[start : start + size])
    return found + splitter.rest()
