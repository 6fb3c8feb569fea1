"""Reads a request: what is asked, what is given with it, and what tools have brought."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kaizen import Message, ModelRequest, ToolUse
from pydantic_core import from_json

from kaizen_offline._passages import Text
from kaizen_offline._words import is_question

__all__ = ["Call", "Conversation", "read_conversation"]

_GIVEN = re.compile(r"^You are given:\n((?:- .*\n?)+)", re.MULTILINE)
_LABEL = re.compile(r"^([a-z_][a-z0-9_]*):(?: |$)", re.MULTILINE)
_CUT = re.compile(r"(?:\A|\n)\[cut: [^\n]*\]\s*\Z")
_CONTINUES = re.compile(r"(?:\A|\n)\[cut: [^\n]*continue with start_line=(\d+)\]\s*\Z")
_TORN = re.compile(r"\n\[cut: \d+ of \d+ characters not shown\]\Z")
_CUT_LINE = re.compile(r" \[cut: \d+ of \d+ characters shown\]\Z")
_QUESTION_NAMES = (
    *("question", "query", "q", "prompt", "task", "instruction", "instructions"),
    *("topic", "goal", "objective"),
)
_OWN_ORIGINS = ("", "user")
_KERNEL_ORIGINS = ("kernel", "signature")
_FAILURE = re.compile(r"(?:Error: )?\[[A-Z]+_\d{3}\] |(?i:error)\b[^\n]{0,500}\Z")
_MAX_CHARS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool call of this conversation, and what the model was told of its result."""

    name: str
    arguments: Mapping[str, Any]
    content: str

    @cached_property
    def data(self) -> dict[str, Any]:
        """The result, if it is a JSON object, as far as it was not cut; or nothing."""
        text = _CUT.sub("", self.content)
        try:
            data = from_json(text, allow_partial=len(text) < len(self.content))
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    @property
    def text(self) -> Text | None:
        """What was read of a file, whole lines only; `None` if nothing was."""
        path, start = self.arguments.get("path"), self.arguments.get("start_line", 1)
        if self.name != "read_file" or _FAILURE.match(self.content):
            return None
        if not self.content or not isinstance(path, str) or not isinstance(start, int):
            return None
        lines = _CUT.sub("", self.content).split("\n")
        if self._is_torn:
            lines.pop()
        return Text(path=path, lines=tuple(lines), start_line=start)

    @property
    def matches(self) -> list[Text]:
        """The lines that a search has shown."""
        if self.name != "grep" or not isinstance(self.data.get("matches"), list):
            return []
        found = (each for each in self.data["matches"] if isinstance(each, dict))
        lines = ((each.get("path"), each.get("line"), each.get("text")) for each in found)
        return [
            Text(path=path, lines=(_CUT_LINE.sub("", text),), start_line=line)
            for path, line, text in lines
            if isinstance(path, str) and isinstance(line, int) and isinstance(text, str)
        ]

    @property
    def continues_at(self) -> int | None:
        """The line at which a file that was cut goes on."""
        if told := _CONTINUES.search(self.content):
            return int(told[1])
        text = self.text
        return text.start_line + len(text.lines) if text and self._is_torn else None

    @property
    def _is_torn(self) -> bool:
        """Whether the kernel cut the result, which it does anywhere in a line."""
        return bool(_TORN.search(self.content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a request says, without the form it says it in.

    Attributes:
        question: What is asked, or `""` if a text is only given.
        subject: What is given with it, or instead of a question.
        calls: The tool calls so far, oldest first, also those for earlier questions.
        recent: How many of them were made for this question.
        turns: How many turns of tool calls there were since the question.
    """

    question: str
    subject: tuple[Text, ...]
    calls: tuple[Call, ...]
    recent: int
    turns: int

    @property
    def texts(self) -> tuple[Text, ...]:
        """Everything that was given or read, in that order."""
        read = [text for call in self.calls if (text := call.text)]
        files = {text.path for text in read}
        found = (
            each for call in self.calls for each in call.matches if each.path not in files
        )
        return tuple(_bounded([*self.subject, *read, *found]))


def read_conversation(request: ModelRequest) -> Conversation:
    """Read a request."""
    start = _start(request.messages)
    question, subject = _asked(request.messages, start)
    return Conversation(
        question=question,
        subject=tuple(subject),
        calls=tuple(_calls(request.messages)),
        recent=sum(message.role == "tool" for message in request.messages[start:]),
        turns=sum(bool(message.tool_uses) for message in request.messages[start:]),
    )


def _start(messages: Sequence[Message]) -> int:
    """Return the position behind the last answer that was followed by something new."""
    asked = [i for i, each in enumerate(messages) if _is_own(each)]
    last = asked[-1] if asked else 0
    return max(
        (
            i + 1
            for i, message in enumerate(messages[:last])
            if message.role == "assistant" and not message.tool_uses
        ),
        default=0,
    )


def _is_own(message: Message) -> bool:
    return message.role == "user" and message.origin in _OWN_ORIGINS


def _asked(messages: Sequence[Message], start: int) -> tuple[str, list[Text]]:
    names = _input_names(messages)
    own = [message.text for message in messages[start:] if _is_own(message)]
    given = [
        Text(path=message.origin, lines=tuple(message.text.splitlines()))
        for message in messages
        if message.role == "user"
        and message.origin not in (*_OWN_ORIGINS, *_KERNEL_ORIGINS)
    ]
    questions: list[str] = []
    for text in own:
        question, subject = _parted(text, names)
        questions += [question] if question else []
        given += subject
    return "\n".join(questions), given


def _input_names(messages: Sequence[Message]) -> frozenset[str]:
    """Return the inputs that the system message announces, none if it does not."""
    given = (_GIVEN.search(message.text) for message in messages[:1])
    return frozenset(
        name for found in given if found for name in re.findall(r"(?m)^- (\w+)", found[1])
    )


def _parted(text: str, names: frozenset[str]) -> tuple[str, list[Text]]:
    """Tell the question in a message from what is given with it."""
    inputs = _inputs(text, names)
    if not inputs:
        return _from_plain(text)
    named = next((name for name in _QUESTION_NAMES if name in inputs), None)
    if named is None:
        named = next((name for name, value in inputs.items() if is_question(value)), None)
    question = inputs.pop(named) if named else ""
    if named and len(question) > 400:
        question, given = _from_plain(question)
        inputs[named] = "\n".join(line for each in given for line in each.lines)
    return question, [
        Text(path=name, lines=tuple(value.splitlines()))
        for name, value in inputs.items()
        if value.strip()
    ]


def _inputs(text: str, names: frozenset[str]) -> dict[str, str]:
    """Return the inputs of a message that is written as lines of `name: value`."""
    labels = [each for each in _LABEL.finditer(text) if not names or each[1] in names]
    if not labels or text[: labels[0].start()].strip():
        return {}
    ends = [*(label.start() for label in labels[1:]), len(text)]
    return {
        label[1]: text[label.end() : end].strip("\n")
        for label, end in zip(labels, ends, strict=True)
    }


def _from_plain(text: str) -> tuple[str, list[Text]]:
    """Take a short text as the question; in a long one, the lines that ask."""
    if len(text) <= 400:
        if is_question(text) or len(text) <= 200:
            return text, []
        return "", [Text(path="", lines=tuple(text.splitlines()))]
    asking = [line for line in text.splitlines() if len(line) < 400 and is_question(line)]
    return "\n".join(asking[:1] + asking[1:][-1:]), [
        Text(path="", lines=tuple(text.splitlines()))
    ]


def _calls(messages: Sequence[Message]) -> Iterator[Call]:
    waiting: dict[str, ToolUse] = {}
    for message in messages:
        waiting.update({use.id: use for use in message.tool_uses})
        if message.role == "tool" and message.tool_use_id in waiting:
            use = waiting.pop(message.tool_use_id)
            yield Call(name=use.name, arguments=_arguments(use), content=message.text)


def _arguments(use: ToolUse) -> Mapping[str, Any]:
    if not isinstance(use.arguments, str):
        return use.arguments
    try:
        found = from_json(use.arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _bounded(texts: Sequence[Text]) -> Iterator[Text]:
    """Give texts until there are four million characters."""
    left = _MAX_CHARS
    for text in texts:
        left -= sum(map(len, text.lines))
        if left < 0:
            return
        yield text
