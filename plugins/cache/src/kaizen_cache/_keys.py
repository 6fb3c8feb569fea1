"""Keys: what two model calls must have in common to be the same.

A key is a hash of everything that may change the answer, and of whom it may be shown. What
is not in it: the run, the turn, time limits, and the ids of tool calls, which are a new
random word in each conversation; their places are in it instead.

Every part stands with its length before it. There is always the same number of parts before
the messages, of each message, of each of those in which something can be changed (told with
its place, behind all messages), and at the end, where the number of messages is the first.
So no two lists of parts read alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from hashlib import sha256
from json import JSONEncoder
from operator import is_
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary, ref

import anyio.to_thread
from kaizen.errors import InputError
from kaizen.hooks import Priority

if TYPE_CHECKING:
    from hashlib import _Hash

    from kaizen.agent import BaseAgent
    from kaizen.media import Media
    from kaizen.messages import (
        Message,
        ModelReply,
        ModelRequest,
        OutputSpec,
    )
    from kaizen.run import Plan, Run
    from kaizen.tools import ToolSpec

    from kaizen_cache._settings import CacheSettings

    Operation: TypeAlias = Callable[[ModelRequest], Awaitable[ModelReply]]

__all__ = ["Key", "Keys", "NoKeyError"]

FORMAT = "kaizen-cache:3"
WHOSE = ("tenant", "tenant_id", "principal", "user_id")
"""What runs say in their metadata about whom they act for."""

HASHED_IN_THREAD = 1024 * 1024
_NO_NUMBERS: Mapping[str, int] = MappingProxyType({})


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


class _Story:
    """The beginning of a conversation, hashed: what nobody can change of its messages.

    Attributes:
        messages: These messages.
        numbers: The places of the tool calls in them, by id.
        open: The places of messages in which something can be changed, such as the
            arguments of a call; that is hashed each time, behind all messages.
    """

    __slots__ = ("_hash", "messages", "numbers", "open")

    def __init__(
        self,
        begun: _Hash,
        messages: tuple[Message, ...] = (),
        numbers: Mapping[str, int] = _NO_NUMBERS,
        open_at: tuple[int, ...] = (),
    ) -> None:
        self._hash = begun
        self.messages = messages
        self.numbers = numbers
        self.open = open_at

    def begins(self, messages: tuple[Message, ...]) -> bool:
        """Whether a conversation begins with these very messages."""
        known = self.messages
        return len(known) <= len(messages) and all(map(is_, known, messages))

    def rest(self, messages: tuple[Message, ...], numbers: dict[str, int]) -> str:
        """Return what follows in a conversation, and number the calls in it."""
        return "".join([_closed(each, numbers) for each in messages[len(self.messages) :]])

    def open_in(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Return the places in a conversation in which something can be changed."""
        start = len(self.messages)
        opened = [
            place
            for place, each in enumerate(messages[start:], start)
            if each.tool_uses
            or each.provider_data is not None
            or not isinstance(each.content, str)
        ]
        return (*self.open, *opened) if opened else self.open

    def continued(self, messages: tuple[Message, ...]) -> _Story:
        """Return the same with all messages of a conversation."""
        numbers = dict(self.numbers)
        begun = self._hash.copy()
        begun.update(_encoded(self.rest(messages, numbers)))
        return _Story(begun, messages, numbers, self.open_in(messages))

    def digest(self, behind: str) -> str:
        """Return the digest of it and of what stands behind it."""
        whole = self._hash.copy()
        whole.update(behind.encode("utf-8", "surrogatepass"))
        return whole.hexdigest()


class _Frame:
    """What of a request is the same in nearly all calls of an agent.

    It holds nothing that is said in one call alone, such as a prefix.

    Attributes:
        plan: The digest of what an agent is, whatever it asks.
        begun: It, and what else is asked with.
        opening: The same with the messages that the conversations of the agent begin with.
    """

    __slots__ = (
        "_max_tokens",
        "_model",
        "_output",
        "_provider",
        "_temperature",
        "_tools",
        "_tools_told",
        "begun",
        "opening",
        "plan",
    )

    def __init__(
        self, plan: Plan, digest: str, request: ModelRequest, known: _Frame | None
    ) -> None:
        self.plan = digest
        self._tools = request.tools
        self._output = request.output
        self._temperature = request.settings.temperature
        self._max_tokens = request.settings.max_tokens
        self._provider = request.provider
        self._model = request.model
        self._tools_told: str = (
            known._tools_told
            if known is not None and known._tools is request.tools
            else _tools(request.tools)
        )
        parts = [
            FORMAT,
            digest,
            request.provider or plan.provider_name,
            request.model or plan.profile.name,
            _json([self._temperature, self._max_tokens]),
            _output(request.output),
            self._tools_told,
        ]
        self.begun = _Story(sha256(_encoded(_framed(parts))))
        self.opening = self.begun.continued(plan.opening)

    def holds(self, request: ModelRequest) -> bool:
        """Whether a request is asked with the same."""
        settings = request.settings
        return (
            request.tools is self._tools
            and request.output is self._output
            and settings.temperature is self._temperature
            and settings.max_tokens is self._max_tokens
            and request.model == self._model
            and request.provider == self._provider
        )


class Keys:
    """Makes keys, and hashes little twice that cannot have changed.

    What an agent always asks with is kept as long as its plan lives, and what has been
    hashed of the conversation of a run as long as that does. Nothing else of what was asked
    stays here.
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        # By the operation compiled for a plan alone: to that one there are weak references.
        self._frames: WeakKeyDictionary[Operation, _Frame] = WeakKeyDictionary()
        self._stories: WeakKeyDictionary[Run, tuple[_Frame, _Story]] = WeakKeyDictionary()
        self._media: dict[int, tuple[ref[Media], str]] = {}

    def forget(self) -> None:
        """Forget all of it."""
        self._frames.clear()
        self._stories.clear()
        self._media.clear()

    def plain(self, run: Run, request: ModelRequest) -> str | None:
        """Return the key of a first question in words; `None` if `of` has to be asked.

        Most calls are such, and it is the same key in less than half the time.
        """
        frame = self._frames.get(run.plan.model_call)
        messages = request.messages
        if frame is None or len(messages) != 2 or not frame.holds(request):
            return None
        told, last = frame.opening, messages[1]
        if len(told.messages) != 1 or told.messages[0] is not messages[0]:
            return None
        text = last.content
        if type(text) is not str or last.tool_uses or last.tool_use_id:
            return None
        if last.provider_data is not None or request.settings.extra:
            return None
        whose = _whose(run) if run.metadata or run.parent is not None else ""
        role, name, origin = last.role, last.name, last.origin
        prefix = request.prefix
        return told.digest(
            f"{len(role)}:{role}{len(name)}:{name}{len(origin)}:{origin}"
            f"4:text{len(text)}:{text}0:1:20:{len(prefix)}:{prefix}{len(whose)}:{whose}"
        )

    async def of(self, run: Run, request: ModelRequest) -> Key:
        """Return the key of a request.

        Raises:
            NoKeyError: It has none.
        """
        messages, extra = request.messages, request.settings.extra
        has_files = False
        try:
            story = self._story(run, request)
            behind = story.rest(messages, dict(story.numbers))
            for place in story.open_in(messages):
                message = messages[place]
                behind += _framed([str(place), *await self._opened(message)])
                has_files = has_files or _has_files(message)
            told = _json(extra) if extra else ""
            whose = _whose(run) if run.metadata or run.parent is not None else ""
            behind += _framed([str(len(messages)), told, request.prefix, whose])
        except (TypeError, ValueError, RecursionError, OSError, InputError) as error:
            # Only its kind is told: what it says may hold what a user wrote.
            raise NoKeyError(type(error).__name__) from None
        return Key(story.digest(behind), has_files)

    def _story(self, run: Run, request: ModelRequest) -> _Story:
        """Return what is hashed already of a conversation: most, but for its first turn."""
        frame, messages = self._frame(run, request), request.messages
        if request.cycle <= 1:
            return frame.opening if frame.opening.begins(messages) else frame.begun
        known = self._stories.get(run)
        if known is not None and known[0] is frame and known[1].begins(messages):
            story = known[1]
        else:
            story = frame.opening if frame.opening.begins(messages) else frame.begun
        story = story.continued(messages)
        self._stories[run] = (frame, story)
        return story

    def _frame(self, run: Run, request: ModelRequest) -> _Frame:
        plan = run.plan
        known = self._frames.get(plan.model_call)
        if known is not None and known.holds(request):
            return known
        digest = self._agent(run) if known is None else known.plan
        frame = self._frames[plan.model_call] = _Frame(plan, digest, request, known)
        return frame

    def _agent(self, run: Run) -> str:
        """Return the digest of what an agent is.

        Middleware of its own that stands behind the cache may refuse or change what others
        would then get: such an agent shares with no other.
        """
        spec_of, inside = run.plan.spec_of, _inside(run.agent)
        alone = self._settings.scope == "agent" or inside
        parts = [
            self._settings.namespace,
            run.agent_id if alone else "",
            _json(inside),
            _tools(spec_of[name] for name in sorted(spec_of)),
        ]
        return sha256(_encoded(_framed(parts))).hexdigest()

    async def _opened(self, message: Message) -> tuple[str, str, str]:
        """Return what of a message can be changed, or has to be looked at each time."""
        data, uses = message.provider_data, message.tool_uses
        told = "" if data is None else _json(data)
        called = _json([[each.name, each.arguments] for each in uses]) if uses else ""
        if isinstance(message.content, str):
            return told, called, ""
        parts: list[str] = []
        for each in message.content:
            if isinstance(each, str):
                parts += ["part", each]
            else:
                parts += ["medium", await self._medium(each)]
        return told, called, _framed(parts)

    async def _medium(self, medium: Media) -> str:
        """Return what is known of a picture, a recording or a document.

        Raises:
            NoKeyError: What it is stands behind a URL.
            OSError: Its file cannot be read.
        """
        if medium.url is not None:
            if not self._settings.cache_urls:
                raise NoKeyError("a URL")
            return _framed([medium.kind, medium.media_type, "url", medium.url])
        name = medium.path.name if medium.path is not None else ""
        content = await self._content(medium)
        return _framed([medium.kind, medium.media_type, "data", name, content])

    async def _content(self, medium: Media) -> str:
        """Return the digest of its bytes, which of those in memory is worked out once."""
        place = id(medium)
        known = self._media.get(place)
        if known is not None and known[0]() is medium:
            return known[1]
        data = await medium.read()
        if len(data) < HASHED_IN_THREAD:
            content = sha256(data).hexdigest()
        else:
            content = (await anyio.to_thread.run_sync(sha256, data)).hexdigest()
        if medium.data is not None:
            known = (ref(medium, lambda _: self._media.pop(place, None)), content)
            self._media[place] = known
        return content


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
                if whom is None:
                    continue
                told = ("text", whom) if type(whom) is str else ("value", _json(whom))
                part = _framed((name, *told))
                if part not in said:
                    said.append(part)
        each = each.parent
    return _framed(said)


def _inside(agent: BaseAgent) -> list[str]:
    """Return of what kind an agent's own middleware is that stands behind the cache."""
    kinds = [
        type(getattr(each.function, "__self__", each.function))
        for manager in agent.own_hooks
        for each in manager.implementations("wrap_model_call")
        if each.order[0] >= Priority.NORMAL
    ]
    return [f"{each.__module__}.{each.__qualname__}" for each in kinds]


def _closed(message: Message, numbers: dict[str, int]) -> str:
    """Return what of a message nobody can change: always as many parts."""
    content = message.content
    kind, text = ("text", content) if isinstance(content, str) else ("parts", "")
    has_places = message.tool_uses or message.tool_use_id
    places = _places(message, numbers) if has_places else ""
    role, name, origin = message.role, message.name, message.origin
    return (
        f"{len(role)}:{role}{len(name)}:{name}{len(origin)}:{origin}"
        f"{len(kind)}:{kind}{len(text)}:{text}{len(places)}:{places}"
    )


def _places(message: Message, numbers: dict[str, int]) -> str:
    """Return the places of the calls of a message among those of the conversation."""
    for use in message.tool_uses:
        numbers.setdefault(use.id, len(numbers))
    uses = " ".join(str(numbers[use.id]) for use in message.tool_uses)
    answered = message.tool_use_id
    place = numbers.setdefault(answered, len(numbers)) if answered else ""
    return f"{uses}/{place}"


def _output(output: OutputSpec | None) -> str:
    return _json([output.name, output.schema, output.strict] if output else None)


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


def _has_files(message: Message) -> bool:
    content = message.content
    return not isinstance(content, str) and any(
        not isinstance(each, str) and each.path is not None for each in content
    )


def _framed(parts: Sequence[str]) -> str:
    return "".join([f"{len(each)}:{each}" for each in parts])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _json(value: Any) -> str:
    """Return JSON that is the same for equal values.

    Raises:
        TypeError: It is nothing that JSON can hold.
    """
    return _ENCODER.encode(value)


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


_ENCODER = JSONEncoder(sort_keys=True, separators=(",", ":"), default=_as_dict)
