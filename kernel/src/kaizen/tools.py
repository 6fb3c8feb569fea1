"""Tools: what a model may ask to have done, and what each one does to the world."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from enum import IntEnum
from hashlib import sha256
from json import dumps
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    get_args,
    get_origin,
    get_type_hints,
    overload,
    runtime_checkable,
)

import anyio.to_thread
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

from kaizen._records import record
from kaizen.errors import AgentCreationError, ToolArgumentsError

if TYPE_CHECKING:
    from kaizen.run import Run

__all__ = [
    "Danger",
    "DangerLevel",
    "Effect",
    "FunctionTool",
    "Grant",
    "Outcome",
    "Tool",
    "ToolCall",
    "ToolContext",
    "ToolResult",
    "ToolSpec",
    "action_digest",
    "definition_digest",
    "tool",
]

_NAME = re.compile(r"[a-z0-9_]{1,64}")
_JSON_TYPES = (str, int, float, bool, type(None))
_ARGUMENTS = ConfigDict(extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class DangerLevel(IntEnum):
    """How much harm a tool can do. Without a grant the kernel runs `SAFE` and `LOW`."""

    SAFE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4
    MODERATE = 2
    DANGEROUS = 3


Outcome: TypeAlias = Literal["known", "unknown", "not_made"]
"""Whether it is known what a tool call did."""
Danger: TypeAlias = (
    DangerLevel
    | Literal["safe", "low", "medium", "high", "critical", "moderate", "dangerous"]
)


@record
class Effect:
    """What a tool does to the world.

    Approval, retries, resume and budgets all read this one statement.

    Attributes:
        danger: How much harm it can do.
        reads: It reads what is not in its arguments.
        writes: It changes something.
        external: It reaches outside this machine; a read that takes a URL does.
        idempotent: Repeating it with the same arguments changes nothing more.
    """

    danger: DangerLevel
    reads: bool = False
    writes: bool = False
    external: bool = False
    idempotent: bool = False

    @classmethod
    def of(
        cls,
        danger: Danger,
        *,
        reads: bool | None = None,
        writes: bool | None = None,
        external: bool = False,
        idempotent: bool | None = None,
    ) -> Effect:
        """Return a statement in which what is left open follows from the danger level.

        `SAFE` neither reads nor writes, `LOW` reads, everything above writes; what does
        not write is idempotent.

        Raises:
            ValueError: There is no such danger level.
        """
        level = _level(danger)
        changes = level > DangerLevel.LOW if writes is None else writes
        return cls(
            danger=level,
            reads=level > DangerLevel.SAFE if reads is None else reads,
            writes=changes,
            external=external,
            idempotent=not changes if idempotent is None else idempotent,
        )

    @property
    def mcp_hints(self) -> dict[str, bool]:
        """The same facts as tool annotations of the Model Context Protocol."""
        return {
            "readOnlyHint": not self.writes,
            "destructiveHint": self.writes and self.danger >= DangerLevel.HIGH,
            "idempotentHint": self.idempotent,
            "openWorldHint": self.external,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """What is known of a tool without calling it.

    Attributes:
        name: Lower-case ASCII letters, digits and underscores, at most 64.
        parameters: JSON schema of the arguments, an object.
        category: What it is filed under, such as `file`, `http`, `web` or `system`.
        timeout_s: Longest time for one call, in seconds.
        max_output_chars: Longest result a model is shown; the rest is cut with a mark.
        directory: The folder to which paths in its arguments are relative, and in which it
            starts commands; `""` if that is not known. Rules about paths go by it.
        elsewhere: What it takes that folder itself to be as well: folders that are not in
            it, where it works in several.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    effect: Effect
    category: str = "function"
    timeout_s: float = 60.0
    max_output_chars: int = 100_000
    directory: str = ""
    elsewhere: tuple[str, ...] = ()

    @property
    def harmless(self) -> bool:
        """Whether the tool runs without a grant."""
        return self.effect.danger <= DangerLevel.LOW

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise AgentCreationError(
                f"tool {self.name!r}",
                "has a name that models cannot call",
                "Use 1 to 64 of a-z, 0-9 and '_'.",
            )


class ToolContext(NamedTuple):
    """Where a tool is called from.

    A parameter of this type is filled in by the kernel and not shown to the model.

    Attributes:
        idempotency_key: Stays the same when this very call is repeated after a crash.
    """

    run: Run
    call_id: str
    idempotency_key: str


@runtime_checkable
class Tool(Protocol):
    """One thing that a model may ask to have done."""

    @property
    def spec(self) -> ToolSpec:
        """What is known of the tool without calling it. Never changes."""
        ...

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as JSON values, defaults filled in.

        Raises:
            ToolArgumentsError: They do not fit; the message is written for the model.
        """
        ...

    async def invoke(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Do it. `arguments` are what `validate` returned.

        Returns:
            A string, which the model reads as it is, or anything that JSON can hold.

        Raises:
            ToolError: It failed in a way that the model should read about.
        """
        ...


@record
class Grant:
    """Permission for one call of a tool that does not run without.

    Attributes:
        by: Who grants it, such as the name of a plugin.
        reason: Why, for the log.
        approval: The request by which a person approved exactly this call, or `""`. The
            kernel makes the call only if that is so, and once.
    """

    by: str
    reason: str = ""
    approval: str = ""


@record
class ToolCall:
    """One call of a tool, about to be made.

    Attributes:
        id: The call's id, unique within the run.
        arguments: JSON values that fit the tool's parameters, defaults filled in.
        grant: Permission, if somebody gave one.
        cycle: The turn of the loop, from 1; 0 for a call outside the loop.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]
    spec: ToolSpec
    run_id: str = ""
    agent_id: str = ""
    cycle: int = 0
    grant: Grant | None = None

    def granted(self, by: str, reason: str = "", *, approval: str = "") -> ToolCall:
        """Return a copy that may run whatever the tool's danger level.

        Args:
            by: Who grants it, such as the name of a plugin.
            reason: Why, for the log.
            approval: `request_id` of a person's answer that allows this call and no other.
        """
        return replace(self, grant=Grant(by=by, reason=reason, approval=approval))


def definition_digest(spec: ToolSpec) -> str:
    """Return what changes with everything that a tool says of itself.

    Returns:
        `sha256:` and 64 hexadecimal digits, of JSON with sorted keys.
    """
    return _digest({"tool": spec.name, **_definition(spec)})


def action_digest(call: ToolCall, principal: str = "") -> str:
    """Return what an approval of a call is bound to.

    It changes with everything that the approval is about: the tool and what it says of
    itself, the arguments, the run, the call, and on whose behalf it is made.

    Args:
        call: What is to be approved.
        principal: On whose behalf; see `Run.principal`.

    Returns:
        `sha256:` and 64 hexadecimal digits, of JSON with sorted keys (RFC 8785 but for
        the spelling of floats).
    """
    return _digest(
        {
            "tool": call.name,
            **_definition(call.spec),
            "arguments": dict(call.arguments),
            "run": call.run_id,
            "call": call.id,
            "principal": principal,
        }
    )


def _definition(spec: ToolSpec) -> dict[str, Any]:
    return {
        "description": spec.description,
        "parameters": spec.parameters,
        "effect": [getattr(spec.effect, each.name) for each in fields(spec.effect)],
        "directory": [spec.directory, *spec.elsewhere],
    }


def _digest(about: Mapping[str, Any]) -> str:
    body = dumps(about, sort_keys=True, separators=(",", ":"), default=dict)
    return f"sha256:{sha256(body.encode()).hexdigest()}"


@record
class ToolResult:
    """What came of one tool call.

    Attributes:
        success: Whether the tool did what it was asked.
        approved: Whether it was allowed to.
        result: What the tool returned; `None` if it failed.
        content: What the model reads: the result as text, or what went wrong.
        error: What went wrong, or `""`.
        error_code: The stable code of the error, such as `TOOL_003`, or `""`.
        outcome: Whether it is `known` what the tool did: `unknown` after a timeout or a
            cancellation, `not_made` if it was never called.
    """

    call_id: str
    name: str
    success: bool
    result: Any = None
    content: str = ""
    error: str = ""
    error_code: str = ""
    approved: bool = True
    duration_ms: float = 0.0
    outcome: Outcome = "known"


class FunctionTool:
    """A tool made of a typed function. Make one with `tool`.

    The schema is built when it is first asked for, so that declaring a tool costs nothing.
    """

    __slots__ = (
        "_context_name",
        "_dump",
        "_function",
        "_is_async",
        "_native",
        "_options",
        "_spec",
        "_texts",
        "_validate",
    )

    def __init__(
        self, function: Callable[..., Any], *, effect: Effect, **options: Any
    ) -> None:
        self._function = function
        self._options = {"effect": effect, **options}
        self._spec: ToolSpec | None = None
        self._validate: Callable[[Any], Any] | None = None
        self._dump: Callable[..., bytes] | None = None
        self._is_async = inspect.iscoroutinefunction(function)
        self._native = False
        self._texts: tuple[str, ...] = ()
        self._context_name = ""
        _check_declaration(function)

    def __repr__(self) -> str:
        return f"<tool {self._options.get('name') or self._function.__name__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as if it were not a tool."""
        return self._function(*args, **kwargs)

    @property
    def spec(self) -> ToolSpec:
        """What is known of the tool without calling it."""
        return self._spec or self._build()

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments as JSON values, defaults filled in."""
        parsed = self._parse(arguments)
        if not self._native:
            return self._as_json(parsed)
        values = parsed.__dict__
        for name in self._texts:
            if not values[name].isascii():  # it may hold half a character
                return self._as_json(parsed)
        return dict(values)

    async def invoke(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Call the function; one that is not a coroutine runs in a worker thread."""
        keywords = arguments if self._native else self._parse(arguments).__dict__
        if self._context_name:
            keywords = {**keywords, self._context_name: context}
        if self._is_async:
            return await self._function(**keywords)
        # In a list, because trio refuses a function that returns a coroutine.
        [value] = await anyio.to_thread.run_sync(
            lambda: [self._function(**keywords)], abandon_on_cancel=True
        )
        return await value if inspect.isawaitable(value) else value

    def _parse(self, arguments: Mapping[str, Any]) -> Any:
        if self._validate is None:
            self._build()
            assert self._validate is not None
        try:
            return self._validate(arguments)
        except ValidationError as error:
            raise _misfit(self.spec.name, error) from None

    def _as_json(self, parsed: Any) -> dict[str, Any]:
        assert self._dump is not None
        try:
            values = from_json(self._dump(parsed, warnings=False))
        except ValueError as error:
            raise ToolArgumentsError(
                f"tool {self.spec.name!r}",
                f"was called with arguments that JSON cannot hold: {error}",
                "Correct the arguments and call it again.",
            ) from None
        return values  # type: ignore[no-any-return]

    def _build(self) -> ToolSpec:
        summary, descriptions = _docstring(self._function)
        fields = self._fields(descriptions)
        options = dict(self._options)
        name = options.pop("name", None) or self._function.__name__
        adapter, schema = _compile(name, fields)
        options["description"] = options.get("description") or summary
        self._native = all(_is_native(info) for info in fields.values())
        self._texts = tuple(key for key, info in fields.items() if info.annotation is str)
        self._spec = ToolSpec(name=name, parameters=schema, **options)
        self._dump = adapter.serializer.to_json
        self._validate = adapter.validator.validate_python
        return self._spec

    def _fields(self, descriptions: Mapping[str, str]) -> dict[str, FieldInfo]:
        """Return the parameters that a model is shown."""
        function = self._function
        hints = _hints(function)
        fields: dict[str, FieldInfo] = {}
        for name, parameter in inspect.signature(function).parameters.items():
            annotation = hints[name]
            if annotation is ToolContext or ToolContext in get_args(annotation):
                self._context_name = name
                continue
            default = parameter.default
            if default is parameter.empty:
                default = ...
            elif default is None:
                annotation = _optional(annotation)
            info = FieldInfo.from_annotated_attribute(annotation, default)
            info.description = info.description or descriptions.get(name)
            fields[name] = info
        return fields


@overload
def tool(
    function: None = None,
    *,
    danger: Danger,
    reads: bool | None = None,
    writes: bool | None = None,
    external: bool = False,
    idempotent: bool | None = None,
    name: str | None = None,
    description: str | None = None,
    category: str = "function",
    timeout_s: float = 60.0,
    max_output_chars: int = 100_000,
    directory: str = "",
    elsewhere: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], FunctionTool]: ...


@overload
def tool(
    function: Callable[..., Any],
    *,
    danger: Danger,
    reads: bool | None = None,
    writes: bool | None = None,
    external: bool = False,
    idempotent: bool | None = None,
    name: str | None = None,
    description: str | None = None,
    category: str = "function",
    timeout_s: float = 60.0,
    max_output_chars: int = 100_000,
    directory: str = "",
    elsewhere: tuple[str, ...] = (),
) -> FunctionTool: ...


def tool(
    function: Callable[..., Any] | None = None,
    *,
    danger: Danger | None = None,
    reads: bool | None = None,
    writes: bool | None = None,
    external: bool = False,
    idempotent: bool | None = None,
    **options: Any,
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Make a tool of a typed function.

    Name, description and schema come from the function's signature and docstring (its
    `Args:` section describes the parameters). `danger` must be said; see `Effect.of` for
    what follows from it.

        @tool(danger="safe")
        async def add(a: int, b: int) -> int:
            \"\"\"Add two numbers.\"\"\"
            return a + b

    Raises:
        AgentCreationError: The effect is not stated, or a parameter has no type or cannot
            be passed by name.
    """
    if danger is None:
        raise undeclared(function)
    effect = Effect.of(
        danger, reads=reads, writes=writes, external=external, idempotent=idempotent
    )
    if function is not None:
        return FunctionTool(function, effect=effect, **options)
    return lambda decorated: FunctionTool(decorated, effect=effect, **options)


def _listed(function: Callable[..., Any], keywords: Mapping[str, Any]) -> list[Any]:
    return [function(**keywords)]


def undeclared(function: Any) -> AgentCreationError:
    """Return the error for a function that does not say what it does to the world."""
    name = getattr(function, "__name__", repr(function))
    return AgentCreationError(
        "a tool" if function is None else f"tool {name!r}",
        "does not say what it does to the world",
        'Declare it with @tool(danger="safe"), or "low", "medium", "high", "critical".',
    )


def _level(danger: Danger) -> DangerLevel:
    if not isinstance(danger, str):
        return DangerLevel(danger)
    try:
        return DangerLevel[danger.upper()]
    except KeyError:
        known = ", ".join(level.name.lower() for level in DangerLevel)
        raise ValueError(f"unknown danger level {danger!r}; known: {known}") from None


def _check_declaration(function: Callable[..., Any]) -> None:
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        raise AgentCreationError(
            f"tool {function!r}", "is not a function", "Write a function around it."
        )
    for name, parameter in inspect.signature(function).parameters.items():
        problem = ""
        if parameter.annotation is parameter.empty:
            problem = "has no type"
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problem = "takes any number of arguments, which a schema cannot say"
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            problem = "cannot be passed by name"
        if problem:
            raise AgentCreationError(
                f"parameter {name!r} of tool {function.__name__!r}",
                problem,
                "Give each parameter a name and a type, such as `count: int`.",
            )


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise AgentCreationError(
            f"tool {function.__name__!r}",
            f"has a type that cannot be found: {error}",
            "Define or import the type at the top of the module.",
        ) from error


def _optional(annotation: Any) -> Any:
    """Return a type that takes `None` as well, for a parameter whose default it is."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return Annotated[(inner | None, *metadata)]
    return annotation | None


def _is_native(info: FieldInfo) -> bool:
    """Whether the values of a parameter, its default included, are JSON as they are."""
    kind: Any = info.annotation
    defaults = str if kind is str else _JSON_TYPES
    return kind in _JSON_TYPES and (
        info.is_required() or isinstance(info.default, defaults)
    )


def _compile(
    name: str, fields: Mapping[str, FieldInfo]
) -> tuple[TypeAdapter[Any], dict[str, Any]]:
    """Return what validates the arguments of a tool, and their schema.

    They become the fields of a dataclass: unlike a model's, they may have any name.
    """
    members = [(key, info.annotation, field(default=info)) for key, info in fields.items()]
    namespace = {"__pydantic_config__": _ARGUMENTS}
    try:
        arguments = make_dataclass(name, members, kw_only=True, namespace=namespace)
        adapter: TypeAdapter[Any] = TypeAdapter(arguments)
        text = to_json(adapter.json_schema(), inf_nan_mode="constants")
        schema = from_json(text, allow_inf_nan=False)
    except (PydanticUserError, TypeError, ValueError) as error:
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise AgentCreationError(
            f"tool {name!r}",
            f"has a parameter that models cannot send: {reason}",
            "Use types and defaults that JSON can hold.",
        ) from error
    schema.pop("title", None)
    for described in schema.get("properties", {}).values():
        described.pop("title", None)
    return adapter, schema


def _misfit(name: str, error: ValidationError) -> ToolArgumentsError:
    problems = [
        f"{'.'.join(map(str, item['loc']))[:100] or 'arguments'}: {item['msg']}"
        for item in error.errors(include_input=False, include_url=False)[:10]
    ]
    return ToolArgumentsError(
        f"tool {name!r}",
        f"was called with arguments that do not fit: {'; '.join(problems)}",
        "Correct the arguments and call it again.",
    )


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return the text before the first section, and what `Args:` says of each parameter."""
    text = inspect.getdoc(function) or ""
    sections = re.split(r"(?m)^(Args|Arguments|Parameters):\s*$", text, maxsplit=1)
    summary = re.split(r"(?m)^(?:Returns|Raises|Yields|Examples?):\s*$", sections[0])[0]
    descriptions: dict[str, str] = {}
    if len(sections) == 3:
        body = re.split(r"(?m)^\S", sections[2], maxsplit=1)[0]
        for match in re.finditer(
            r"(?m)^ +(\w+)(?: *\([^)]*\))?: *(.+(?:\n {6,}.+)*)", body
        ):
            descriptions[match[1]] = " ".join(match[2].split())
    return summary.strip(), descriptions


def select(
    tools: Sequence[Tool], *, category: str | None = None, safe_only: bool = False
) -> list[Tool]:
    """Return the tools of a category, and only those that need no grant if so wanted."""
    return [
        each
        for each in tools
        if (category is None or each.spec.category == category)
        and (not safe_only or each.spec.harmless)
    ]
