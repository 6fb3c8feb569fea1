"""Keys: what two model calls must have in common to be the same.

A key is a hash of everything that may change the answer, and of whom it may be shown. What
is not in it: the run, the turn, time limits, and the ids of tool calls, which are a new
random word in each conversation; their places are in it instead.

Every part stands with its length before it, so that no two lists of parts read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from hashlib import sha256
from json import dumps
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import anyio.to_thread
from kaizen.errors import InputError

if TYPE_CHECKING:
    from kaizen.agent import BaseAgent
    from kaizen.media import Media
    from kaizen.messages import (
        Message,
        ModelRequest,
        ModelSettings,
        OutputSpec,
        ToolUse,
    )
    from kaizen.run import Plan, Run
    from kaizen.tools import ToolSpec

    from kaizen_cache._settings import CacheSettings

__all__ = ["Key", "Keys", "NoKeyError"]

FORMAT = "kaizen-cache:1"
WHOSE = ("tenant", "tenant_id", "principal", "user_id")
"""What runs say in their metadata about whom they act for."""

MOST_KEPT_CHARS = 8 * 1024 * 1024
MOST_KEPT = 4_096
MOST_KEYS = 512
MOST_CHARS_OF_PARTS = 16_384
HASHED_IN_THREAD = 1024 * 1024


class NoKeyError(Exception):
    """A request has something in it of which nobody knows whether it is the same."""


class Key(NamedTuple):
    """The key of one request.

    Attributes:
        text: 64 hexadecimal digits.
        has_files: Whether files are in it, which may have changed when they are read again.
    """

    text: str
    has_files: bool


class _Frame(NamedTuple):
    """What of a request is the same in all calls of an agent, and its digest."""

    spec_of: Mapping[str, ToolSpec]
    tools: tuple[ToolSpec, ...]
    output: OutputSpec | None
    settings: ModelSettings
    words: tuple[str, ...]
    digest: str


class Keys:
    """Makes keys, and hashes nothing twice that cannot have changed.

    Kept are the digests of what agents always ask with; those of messages, by identity; and
    the keys of what was asked last, by the very parts that are hashed.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._frames: WeakKeyDictionary[BaseAgent, _Frame] = WeakKeyDictionary()
        self._messages: dict[int, tuple[Message, str]] = {}
        self._kept_chars = 0
        self._keys: dict[tuple[str, ...], Key] = {}

    def forget(self) -> None:
        """Forget what was asked; keys stay the same."""
        self._messages.clear()
        self._kept_chars = 0
        self._keys.clear()

    async def of(self, run: Run, request: ModelRequest) -> Key:
        """Return the key of a request.

        Raises:
            NoKeyError: It has none.
        """
        messages = request.messages
        numbers: dict[str, int] = {}
        has_files = False
        try:
            parts = [self._frame(run, request), _whose(run)]
            for message in messages:
                if not isinstance(message.content, str):
                    has_files |= any(_is_file(each) for each in message.content)
                    parts.append(await self._mixed(message))
                elif message is messages[-1]:  # it may never be seen again
                    parts += (*_head(message), message.content)
                else:
                    parts.append(self._digest_of(message))
                if message.tool_uses or message.tool_use_id:
                    parts.append(_places(message, numbers))
                else:
                    parts.append("")
        except (TypeError, ValueError, RecursionError, OSError, InputError) as error:
            # Only its kind is told: what it says may hold what a user wrote.
            raise NoKeyError(type(error).__name__) from None
        return self._hashed(tuple(parts), has_files=has_files)

    def _hashed(self, parts: tuple[str, ...], *, has_files: bool) -> Key:
        known = self._keys.get(parts)
        if known is not None:
            return known
        key = Key(_digest(parts), has_files)
        if sum(map(len, parts)) <= MOST_CHARS_OF_PARTS:
            self._keys[parts] = key
            if len(self._keys) > MOST_KEYS:
                del self._keys[next(iter(self._keys))]
        return key

    def _frame(self, run: Run, request: ModelRequest) -> str:
        """Return the digest of all but the messages, of which little ever changes."""
        plan = run.plan
        words = (
            run.agent_id,
            request.provider or plan.provider_name,
            request.model or plan.profile.name,
            request.prefix,
        )
        known = self._frames.get(run.agent)
        if (
            known is not None
            and known.spec_of is plan.spec_of
            and known.tools is request.tools
            and known.output is request.output
            and known.settings is request.settings
            and known.words == words
        ):
            return known.digest
        frame = _Frame(
            plan.spec_of,
            request.tools,
            request.output,
            request.settings,
            words,
            self._framing(plan, request, words),
        )
        self._frames[run.agent] = frame
        return frame.digest

    def _framing(self, plan: Plan, request: ModelRequest, words: tuple[str, ...]) -> str:
        output, settings = request.output, request.settings
        agent_id, *asked = words
        parts = [
            FORMAT,
            self._settings.namespace,
            agent_id if self._settings.scope == "agent" else "",
            *asked,
            _json([settings.temperature, settings.max_tokens, settings.extra]),
            _json([output.name, output.schema, output.strict] if output else None),
            _tools(request.tools),
            _tools(plan.spec_of[name] for name in sorted(plan.spec_of)),
        ]
        return _digest(parts)

    def _digest_of(self, message: Message) -> str:
        """Return the digest of a message that is text.

        It is kept by the message's identity, if nothing in that can be changed.
        """
        known = self._messages.get(id(message))
        if known is not None and known[0] is message:
            return known[1]
        text = message.text
        digest = _digest([*_head(message), text])
        if not message.tool_uses and message.provider_data is None:
            self._keep(message, len(text), digest)
        return digest

    def _keep(self, message: Message, size: int, digest: str) -> None:
        if self._kept_chars + size > MOST_KEPT_CHARS or len(self._messages) >= MOST_KEPT:
            self._messages.clear()
            self._kept_chars = 0
        if size <= MOST_KEPT_CHARS:
            self._messages[id(message)] = (message, digest)
            self._kept_chars += size

    async def _mixed(self, message: Message) -> str:
        """Return the digest of a message with media."""
        parts = _head(message)
        for each in message.content:
            if isinstance(each, str):
                parts += ["part", each]
            else:
                parts += ["medium", await self._medium(each)]
        return _digest(parts)

    async def _medium(self, medium: Media) -> str:
        """Return the digest of a picture, a recording or a document.

        Raises:
            NoKeyError: What it is stands behind a URL.
            OSError: Its file cannot be read.
        """
        if medium.url is not None:
            if not self._settings.cache_urls:
                raise NoKeyError("a URL")
            return _digest([medium.kind, medium.media_type, "url", medium.url])
        data = await medium.read()
        if len(data) < HASHED_IN_THREAD:
            content = sha256(data).hexdigest()
        else:
            content = (await anyio.to_thread.run_sync(sha256, data)).hexdigest()
        name = medium.path.name if medium.path is not None else ""
        return _digest([medium.kind, medium.media_type, "data", name, content])


def _whose(run: Run) -> str:
    """Return whom a run acts for: what it and the runs around it say of that.

    Each of them counts, and none at all is somebody as well, but nobody else.
    """
    said: list[str] = []
    each: Run | None = run
    while each is not None:
        if each.metadata:
            for name in WHOSE:
                whom = each.metadata.get(name)
                if whom is not None and (part := _json([name, whom])) not in said:
                    said.append(part)
        each = each.parent
    return _framed(said) if said else ""


def _places(message: Message, numbers: dict[str, int]) -> str:
    """Return the places of the calls of a message among those of the conversation."""
    for use in message.tool_uses:
        numbers.setdefault(use.id, len(numbers))
    uses = " ".join(str(numbers[use.id]) for use in message.tool_uses)
    answered = message.tool_use_id
    place = numbers.setdefault(answered, len(numbers)) if answered else ""
    return f"{uses}/{place}"


def _head(message: Message) -> list[str]:
    """Return what there is of a message beside its content."""
    data = message.provider_data
    return [
        message.role,
        message.name,
        message.origin,
        "" if data is None else _json(data),
        "" if not message.tool_uses else _called(message.tool_uses),
        "text" if isinstance(message.content, str) else "parts",
    ]


def _called(uses: Sequence[ToolUse]) -> str:
    return _json([[each.name, each.arguments] for each in uses])


def _tools(specs: Iterable[ToolSpec]) -> str:
    """Return what tools say of themselves."""
    return _json(
        [
            [
                each.name,
                each.description,
                each.parameters,
                astuple(each.effect),
                each.category,
                each.timeout_s,
                each.max_output_chars,
            ]
            for each in specs
        ]
    )


def _is_file(part: str | Media) -> bool:
    return not isinstance(part, str) and part.path is not None


def _digest(parts: Sequence[str]) -> str:
    return sha256(_framed(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _framed(parts: Sequence[str]) -> str:
    return "".join([f"{len(each)}:{each}" for each in parts])


def _json(value: Any) -> str:
    """Return JSON that is the same for equal values.

    Raises:
        TypeError: It is nothing that JSON can hold.
    """
    return dumps(value, sort_keys=True, separators=(",", ":"), default=_as_dict)


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)
