"""Settings: where they come from and what they must be.

From the strongest: code, environment, `kaizen.toml`, defaults. In `kaizen.toml`,
`[kaizen]` holds the fields of `KaizenConfig`, `[kaizen.agent]` defaults for every agent,
and `[plugins.<name>]` the settings of a plugin. The environment has
`KAIZEN_<PLUGIN>__<FIELD>` for plugins, `KAIZEN_<FIELD>` for the kernel and
`KAIZEN_AGENT__<FIELD>` for the defaults of agents. A secret may be written as
`{ env = "NAME" }`, and is then read from that variable.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from kaizen.errors import AgentCreationError, ConfigurationError
from kaizen.messages import ModelSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "AgentConfig",
    "ConfigSource",
    "KaizenConfig",
    "PluginSettings",
    "Sources",
    "explain",
]

Model = TypeVar("Model", bound=BaseModel)

MAX_CONFIG_BYTES = 1024 * 1024
_OWN_ERROR = "kaizen_agent"
LogLevel: TypeAlias = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class PluginSettings(BaseModel):
    """What a user may write under `[plugins.<name>]`; derive from it.

    Unknown keys are refused, and values never appear in error messages. Declare secrets as
    `SecretStr`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class AgentConfig(BaseModel):
    """How an agent works. Every field may be left out.

    Some fields are switches that a plugin serves; turned on without that plugin, they are
    an error that names it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    llm_provider: str | None = Field(default=None, description="Name of the provider.")
    model: str = Field(default="", description="Model; empty for the provider's default.")
    temperature: float | None = Field(default=None, ge=0, le=10)
    max_tokens: int | None = Field(
        default=None, ge=1, description="Most tokens of a reply."
    )
    provider_config: dict[str, Any] = Field(
        default_factory=dict, description="Fields for this provider alone.", repr=False
    )
    timeout: float | None = Field(
        default=None, gt=0, description="Longest time for one run, in seconds."
    )
    max_cycles: int = Field(default=20, ge=1, le=10_000, description="Most turns of a run.")
    max_output_retries: int = Field(
        default=2, ge=0, le=20, description="How often an invalid reply is sent back."
    )
    strict_outputs: bool = Field(
        default=True, description="Demand the closed JSON schema of structured outputs."
    )
    min_confidence_threshold: float | None = Field(
        default=None, ge=0, le=1, description="Lowest `confidence` that ends a run."
    )
    stream: bool = Field(default=False, description="Ask the provider for a stream.")
    durability: Literal["sync", "async", "exit"] = Field(
        default="sync",
        description="When the log of a run is in its store: `sync`, before it goes on; "
        "`async`, soon; `exit`, when it ends.",
    )
    on_save_error: Literal["stop", "continue"] = Field(
        default="stop",
        description="What a run does whose log cannot be kept: stop, or go on and say so.",
    )
    graceful_shutdown_timeout: float = Field(
        default=5.0,
        ge=0,
        le=86_400,
        description="Longest time that a graceful stop waits for the turn, in seconds.",
    )
    retry_attempts: int = Field(default=0, ge=0, description="Retries of a failed request.")
    cache_enabled: bool = False
    cache_ttl: int = Field(default=3600, ge=0, description="Seconds.")
    cache_key_strategy: Literal["content_hash"] = "content_hash"
    enable_metrics: bool = False
    enable_tracing: bool = False
    max_turns: int | None = Field(default=None, ge=1, description="Turns remembered.")
    log_level: LogLevel | None = None

    SWITCHES: ClassVar[Mapping[str, str]] = {
        "cache_enabled": "kaizen-cache",
        "enable_metrics": "kaizen-observability",
        "enable_tracing": "kaizen-observability",
        "max_turns": "kaizen-memory",
        "retry_attempts": "kaizen-resilience",
    }

    @classmethod
    def extract(cls, source: ConfigSource) -> AgentConfig:
        """Return the fields that a mapping, dataclass, model or object has.

        What it has beside them stays with its owner.

        Raises:
            AgentCreationError: A field has a wrong value, or there is nothing to read.
        """
        if isinstance(source, cls):
            return source
        items = source.items() if isinstance(source, Mapping) else _items(source)
        known = cls.__pydantic_fields__
        values = {name: value for name, value in items if name in known}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = explain(error)
        # Out here, so that pydantic's error, which holds the values, is gone.
        raise AgentCreationError("the agent's config", problem)

    def over(self, base: Mapping[str, Any]) -> AgentConfig:
        """Return this configuration with `base` where it leaves a field open."""
        if not base:
            return self
        own = {name: getattr(self, name) for name in self.model_fields_set}
        return AgentConfig.extract({**base, **own})

    @property
    def model_settings(self) -> ModelSettings:
        """What a provider is told."""
        return ModelSettings(
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            extra=self.provider_config,
        )


ConfigSource: TypeAlias = AgentConfig | Mapping[str, Any] | BaseModel | object | None


class KaizenConfig(BaseModel):
    """How a kernel works: the table `[kaizen]`.

    Some fields are switches that a plugin serves; turned on without that plugin, they are
    an error that names it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    plugins: tuple[str, ...] | None = Field(
        default=None, description="The plugins to enable, in order; all if left out."
    )
    default_provider: str | None = Field(
        default=None, description="Provider of agents that name none."
    )
    checkpoint_store: str | None = Field(
        default=None, description="Store that keeps the log of every run."
    )
    channel: str | None = Field(
        default=None, description="Channel by which runs ask whoever is outside."
    )
    answer_timeout: float = Field(
        default=259_200.0,
        gt=0,
        le=31_622_400,
        description="How long a question waits for its answer, in seconds.",
    )
    hook_timeout: float = Field(
        default=5.0,
        gt=0,
        le=3_600,
        description="Longest time for one observer, in seconds.",
    )
    error_handling: Literal["strict", "lenient"] = Field(
        default="strict", description="`lenient` leaves out plugins that fail."
    )
    log_level: LogLevel | None = None
    agent: dict[str, Any] = Field(
        default_factory=dict,
        description="Defaults for the config of every agent.",
        repr=False,
    )

    signature_programming_enabled: Literal[True] = True
    performance_tracking: bool = False
    transparency_enabled: bool = False
    cache_enabled: bool = False
    cache_backend: Literal["memory", "redis", "database"] = "memory"
    cache_ttl: int = Field(default=3600, ge=0, description="Seconds.")
    monitoring_level: Literal["basic", "detailed", "comprehensive"] = "basic"
    metrics_retention: str = Field(default="7d", pattern=r"^[0-9]{1,5}[smhdw]$")
    real_time_metrics: bool = False
    security_profile: Literal["standard", "enterprise"] = "standard"
    audit_enabled: bool = False
    compliance_mode: bool = False

    SWITCHES: ClassVar[Mapping[str, str]] = {
        "audit_enabled": "kaizen-observability",
        "cache_backend": "kaizen-cache",
        "cache_enabled": "kaizen-cache",
        "compliance_mode": "kaizen-observability",
        "monitoring_level": "kaizen-observability",
        "performance_tracking": "kaizen-observability",
        "real_time_metrics": "kaizen-observability",
        "security_profile": "kaizen-security",
        "transparency_enabled": "kaizen-observability",
    }

    @field_validator("agent")
    @classmethod
    def _fit_an_agent(cls, defaults: dict[str, Any]) -> dict[str, Any]:
        try:
            AgentConfig(**defaults)
        except ValidationError as error:
            problem = explain(error, known=tuple(AgentConfig.model_fields))
        else:
            return defaults
        raise PydanticCustomError(_OWN_ERROR, "{problem}", {"problem": problem})

    @property
    def agent_defaults(self) -> dict[str, Any]:
        """What agents of this kernel start from."""
        shared: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("cache_enabled", "cache_ttl")
            if name in self.model_fields_set
        }
        return {**shared, **self.agent}


def refuse_idle_switches(
    config: AgentConfig | KaizenConfig, served: frozenset[str], where: str
) -> None:
    """Raise for a switch that was turned on and that nobody serves.

    Raises:
        ConfigurationError: It names the switch and the plugin that it needs.
    """
    for name, distribution in type(config).SWITCHES.items():
        default = type(config).model_fields[name].default
        if name not in served and getattr(config, name) != default:
            raise ConfigurationError(
                f"{name!r} of {where}",
                "has no meaning with the plugins that are enabled",
                f"Install the plugin that serves it, `pip install {distribution}`, "
                f"or leave it at {default!r}.",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the settings of one kernel come from.

    Attributes:
        code: Settings given in code, by plugin; the strongest.
        environ: The environment.
        file: The contents of `kaizen.toml`.
        path: Where that file is, for messages.
    """

    code: Mapping[str, Mapping[str, Any]] = dataclasses.field(repr=False)
    environ: Mapping[str, str] = dataclasses.field(repr=False)
    file: Mapping[str, Any] = dataclasses.field(repr=False)
    path: str = "kaizen.toml"

    def kernel(self, code: Mapping[str, Any]) -> KaizenConfig:
        """Return the kernel's configuration.

        Raises:
            ConfigurationError: An unknown key or a wrong value.
        """
        table = self._table("kaizen")
        variables: dict[str, Any] = {
            name: value
            for name in KaizenConfig.model_fields
            if (value := self.environ.get(f"KAIZEN_{name.upper()}")) is not None
        }
        if "plugins" in variables:
            names = (each.strip() for each in variables["plugins"].split(","))
            variables["plugins"] = tuple(name for name in names if name)
        fields = self._variables("agent")
        if "agent" in variables or fields:
            whole = _value(variables.get("agent", "{}"))
            merged = isinstance(whole, Mapping)
            variables["agent"] = _merge(whole, fields) if merged else whole
        return self._build(KaizenConfig, "[kaizen]", table, variables, code)

    def plugin(self, name: str, settings: type[Model]) -> Model:
        """Return the settings of a plugin.

        Raises:
            ConfigurationError: An unknown key or a wrong value.
        """
        plugins = self._table("plugins")
        table = plugins.get(name, {})
        if not isinstance(table, Mapping):
            raise ConfigurationError(
                f"{self.path}: plugins.{name}", "is not a table", f"Write [plugins.{name}]."
            )
        variables = self._variables(name)
        code = self.code.get(name, {})
        return self._build(settings, f"[plugins.{name}]", table, variables, code)

    def _table(self, name: str) -> Mapping[str, Any]:
        table = self.file.get(name, {})
        if isinstance(table, Mapping):
            return table
        raise ConfigurationError(
            f"{self.path}: {name}", "is not a table", f"Write [{name}]."
        )

    def _variables(self, name: str) -> dict[str, Any]:
        prefix = f"KAIZEN_{name.upper().replace('-', '_')}__"
        found: dict[str, Any] = {}
        for variable, value in self.environ.items():
            if not variable.upper().startswith(prefix):
                continue
            *parents, last = variable[len(prefix) :].lower().split("__")
            place = found
            for parent in parents:
                deeper = place.setdefault(parent, {})
                place = deeper if isinstance(deeper, dict) else {}
            place[last] = _value(value)
        return found

    def _build(
        self,
        model: type[Model],
        where: str,
        table: Mapping[str, Any],
        variables: Mapping[str, Any],
        code: Mapping[str, Any],
    ) -> Model:
        merged = _merge(_merge(self._resolve(table), variables), self._resolve(code))
        try:
            return model(**merged)
        except ValidationError as error:
            origins = {
                **dict.fromkeys(table, self.path),
                **dict.fromkeys(variables, "the environment"),
                **dict.fromkeys(code, "code"),
            }
            problem = explain(error, known=tuple(model.model_fields), origins=origins)
        # Out here, so that pydantic's error, which holds the values, is gone.
        raise ConfigurationError(f"the settings {where}", problem)

    def _resolve(self, value: Any) -> Any:
        """Replace `{ env = "NAME" }` by the variable's value."""
        if isinstance(value, Mapping):
            if set(value) == {"env"} and isinstance(value["env"], str):
                variable = value["env"]
                if variable not in self.environ:
                    raise ConfigurationError(
                        f"environment variable {variable!r}",
                        "is named in the settings but not set",
                        "Set it, or remove the setting.",
                    )
                return self.environ[variable]
            return {key: self._resolve(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._resolve(each) for each in value]
        return value


def read_config(path: Path) -> dict[str, Any]:
    """Return the contents of a `kaizen.toml`.

    Raises:
        ConfigurationError: It cannot be read, is too large or is not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"configuration file {str(path)!r}", f"cannot be read: {error.strerror}"
        ) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigurationError(
            f"configuration file {str(path)!r}", f"is larger than {MAX_CONFIG_BYTES} bytes"
        )
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"configuration file {str(path)!r}", f"is not valid TOML: {error}"
        ) from error


def explain(
    error: ValidationError,
    *,
    known: Sequence[str] = (),
    origins: Mapping[str, str] | None = None,
) -> str:
    """Return what is wrong, field by field, without the values."""
    problems = []
    for item in error.errors(include_url=False, include_context=False):
        place = ".".join(map(str, item["loc"]))
        origin = (origins or {}).get(str(item["loc"][0]) if item["loc"] else "")
        source = f" (from {origin})" if origin else ""
        if item["type"] == "extra_forbidden":
            names = f"; known: {', '.join(known)}" if known else ""
            problems.append(f"{place!r}{source} is unknown{names}")
        else:
            problems.append(f"{place!r}{source}: {_told(item)}")
    return f"cannot be used: {'; '.join(problems)}"


def _told(item: ErrorDetails) -> str:
    """Return what a validator said, unless it is a stranger's and tells a value."""
    from kaizen.signatures._problems import _tells_a_value

    if item["type"] != _OWN_ERROR and _tells_a_value(item):
        return "is not valid"
    return item["msg"]


def _items(source: ConfigSource) -> Iterator[tuple[str, Any]]:
    if source is None:
        return
    if isinstance(source, BaseModel):
        for name in type(source).model_fields:
            yield name, getattr(source, name)
    elif dataclasses.is_dataclass(source) and not isinstance(source, type):
        for field in dataclasses.fields(source):
            yield field.name, getattr(source, field.name)
    else:
        yield from _attributes(source)


def _attributes(source: object) -> Iterator[tuple[str, Any]]:
    found = [name for name in AgentConfig.model_fields if hasattr(source, name)]
    if not found or isinstance(source, type):
        raise AgentCreationError(
            f"config of type {type(source).__name__!r}",
            "has no fields to read",
            "Pass an AgentConfig, a mapping, a dataclass or a pydantic model.",
        )
    for name in found:
        yield name, getattr(source, name)


def _value(text: str) -> Any:
    """Return a variable's value; lists and tables are written as JSON."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _merge(weak: Mapping[str, Any], strong: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged
