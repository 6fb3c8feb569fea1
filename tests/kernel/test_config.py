"""Configurations of agents and kernels: what is read from what, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kaizen import AgentConfig, KaizenConfig, PluginSettings
from kaizen.config import (
    MAX_CONFIG_BYTES,
    Sources,
    explain,
    read_config,
    refuse_idle_switches,
)
from kaizen.errors import AgentCreationError, ConfigurationError
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator

SECRET = "hunter2"


@dataclass
class AsDataclass:
    llm_provider: str = "openai"
    model: str = "gpt"
    temperature: float = 0.5
    own_field: list[str] = field(default_factory=lambda: ["mine"])


class AsModel(BaseModel):
    llm_provider: str = "openai"
    model: str = "gpt"
    temperature: float = 0.5
    own_field: list[str] = ["mine"]


class AsObject:
    def __init__(self) -> None:
        self.llm_provider = "openai"
        self.model = "gpt"
        self.temperature = 0.5
        self.own_field = ["mine"]


class AsClassAttributes:
    llm_provider = "openai"
    model = "gpt"
    temperature = 0.5
    own_field = ("mine",)


class AsSlots:
    __slots__ = ("llm_provider", "model", "own_field", "temperature")

    def __init__(self) -> None:
        self.llm_provider = "openai"
        self.model = "gpt"
        self.temperature = 0.5
        self.own_field = ["mine"]


MAPPING = {"llm_provider": "openai", "model": "gpt", "temperature": 0.5, "own_field": 1}


@pytest.mark.parametrize(
    "source",
    [
        AsDataclass(),
        AsModel(),
        AsObject(),
        AsClassAttributes(),
        AsSlots(),
        MAPPING,
        SimpleNamespace(**MAPPING),
        AgentConfig(llm_provider="openai", model="gpt", temperature=0.5),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_config_is_read_from_anything_that_has_its_fields(source: Any) -> None:
    config = AgentConfig.extract(source)

    assert config == AgentConfig(llm_provider="openai", model="gpt", temperature=0.5)
    assert config.model_fields_set == {"llm_provider", "model", "temperature"}


def test_further_fields_stay_with_their_owner() -> None:
    source = AsDataclass()
    AgentConfig.extract(source)
    assert source.own_field == ["mine"]


def test_a_config_of_nothing_is_the_default() -> None:
    assert AgentConfig.extract(None) == AgentConfig() == AgentConfig.extract({})


def test_a_config_is_its_own_extract() -> None:
    config = AgentConfig(model="gpt")
    assert AgentConfig.extract(config) is config


@pytest.mark.parametrize(
    "source", ["gpt-4o", 7, ["model"], AgentConfig, lambda: None, object()]
)
def test_what_has_no_field_is_refused(source: Any) -> None:
    with pytest.raises(AgentCreationError, match=r"has no fields to read\. Pass"):
        AgentConfig.extract(source)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", SECRET),
        ("temperature", float("nan")),
        ("temperature", -1),
        ("max_tokens", 0),
        ("timeout", 0),
        ("max_cycles", 0),
        ("max_cycles", 10**9),
        ("max_output_retries", -1),
        ("min_confidence_threshold", 1.5),
        ("cache_key_strategy", SECRET),
        ("log_level", SECRET),
        ("provider_config", SECRET),
        ("model", None),
        ("model", [SECRET]),
    ],
)
def test_a_value_that_does_not_fit_is_named_without_being_shown(
    name: str, value: object
) -> None:
    with pytest.raises(
        AgentCreationError, match=f"config cannot be used: '{name}"
    ) as caught:
        AgentConfig.extract({name: value})
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(AgentCreationError, match=r"'temperature'.*'max_tokens'"):
        AgentConfig.extract({"temperature": "hot", "max_tokens": "many"})


def test_a_misspelt_field_of_the_config_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="modle"):
        AgentConfig(modle="gpt")  # type: ignore[call-arg]


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AgentConfig().model = "gpt"


def test_what_a_config_leaves_open_comes_from_below() -> None:
    config = AgentConfig(model="own").over({"model": "base", "temperature": 0.5})
    assert (config.model, config.temperature) == ("own", 0.5)


def test_what_a_config_says_stands_even_if_it_is_the_default() -> None:
    assert AgentConfig(stream=False).over({"stream": True}).stream is False
    assert AgentConfig().over({"stream": True}).stream is True


def test_over_nothing_a_config_is_itself() -> None:
    config = AgentConfig(model="own")
    assert config.over({}) is config


def test_a_value_from_below_is_validated() -> None:
    with pytest.raises(AgentCreationError, match="temperature"):
        AgentConfig().over({"temperature": "hot"})


def test_an_agent_has_the_fields_that_the_documents_name() -> None:
    assert {
        "llm_provider",
        "model",
        "temperature",
        "max_tokens",
        "provider_config",
        "timeout",
        "retry_attempts",
        "stream",
        "cache_enabled",
        "cache_ttl",
        "cache_key_strategy",
        "enable_metrics",
        "enable_tracing",
        "log_level",
        "max_turns",
        "min_confidence_threshold",
    } <= set(AgentConfig.model_fields)
    assert AgentConfig().cache_key_strategy == "content_hash"


def test_a_provider_is_told_its_settings() -> None:
    config = AgentConfig(temperature=0.5, max_tokens=9, provider_config={"seed": 1})
    settings = config.model_settings
    assert (settings.temperature, settings.max_tokens) == (0.5, 9)
    assert settings.extra == {"seed": 1}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("signature_programming_enabled", [True]),
        ("performance_tracking", [True, False]),
        ("transparency_enabled", [True, False]),
        ("cache_enabled", [True, False]),
        ("cache_backend", ["memory", "redis", "database"]),
        ("cache_ttl", [0, 3_600]),
        ("monitoring_level", ["basic", "detailed", "comprehensive"]),
        ("metrics_retention", ["7d", "12h", "90s"]),
        ("real_time_metrics", [True, False]),
        ("security_profile", ["standard", "enterprise"]),
        ("audit_enabled", [True, False]),
        ("compliance_mode", [True, False]),
    ],
)
def test_a_kernel_has_the_fields_that_the_documents_name(
    name: str, values: list[Any]
) -> None:
    for value in values:
        assert getattr(KaizenConfig(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("signature_programming_enabled", False),
        ("cache_backend", "tape"),
        ("cache_ttl", -1),
        ("monitoring_level", "all"),
        ("metrics_retention", "a while"),
        ("metrics_retention", "7d\n"),
        ("security_profile", "none"),
        ("hook_timeout", 0),
        ("hook_timeout", float("inf")),
        ("error_handling", "ignore"),
        ("log_level", "LOUD"),
        ("plugins", 7),
        ("unknown", 1),
    ],
)
def test_a_kernel_refuses_what_it_does_not_know(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"settings \\[kaizen\\].*'{name}'"):
        sources().kernel({name: value})


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"modle": SECRET}, "'modle' is unknown; known: .*model"),
        ({"temperature": SECRET}, "'temperature'"),
    ],
)
def test_defaults_that_no_agent_can_have_are_refused_when_they_are_read(
    defaults: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        sources(file={"kaizen": {"agent": defaults}}).kernel({})
    assert SECRET not in str(caught.value)


def test_agents_start_from_what_the_kernel_says() -> None:
    config = KaizenConfig(cache_enabled=True, cache_ttl=9, agent={"model": "gpt"})
    assert config.agent_defaults == {"cache_enabled": True, "cache_ttl": 9, "model": "gpt"}
    assert (
        KaizenConfig(cache_ttl=9, agent={"cache_ttl": 8}).agent_defaults["cache_ttl"] == 8
    )
    assert KaizenConfig().agent_defaults == {}


@pytest.mark.parametrize("config", [AgentConfig, KaizenConfig])
def test_every_switch_is_a_field_and_names_a_distribution(config: Any) -> None:
    assert set(config.SWITCHES) <= set(config.model_fields)
    assert all(name.startswith("kaizen-") for name in config.SWITCHES.values())


@pytest.mark.parametrize(
    "config",
    [
        AgentConfig(cache_enabled=True),
        AgentConfig(enable_metrics=True),
        AgentConfig(enable_tracing=True),
        AgentConfig(max_turns=3),
        AgentConfig(retry_attempts=1),
        KaizenConfig(audit_enabled=True),
        KaizenConfig(cache_backend="redis"),
        KaizenConfig(cache_enabled=True),
        KaizenConfig(compliance_mode=True),
        KaizenConfig(monitoring_level="detailed"),
        KaizenConfig(performance_tracking=True),
        KaizenConfig(real_time_metrics=True),
        KaizenConfig(security_profile="enterprise"),
        KaizenConfig(transparency_enabled=True),
    ],
    ids=lambda config: f"{type(config).__name__}-{min(config.model_fields_set)}",
)
def test_a_switch_that_nobody_serves_says_which_plugin_it_needs(config: Any) -> None:
    (name,) = config.model_fields_set
    distribution = config.SWITCHES[name]

    with pytest.raises(ConfigurationError, match=f"'{name}' of it.*install {distribution}"):
        refuse_idle_switches(config, frozenset(), "it")
    refuse_idle_switches(config, frozenset({name}), "it")


def test_a_switch_that_is_off_needs_nobody() -> None:
    refuse_idle_switches(AgentConfig(cache_enabled=False), frozenset(), "it")
    refuse_idle_switches(KaizenConfig(cache_backend="memory"), frozenset(), "it")


class Limits(BaseModel):
    high: int = 9
    low: int = 1


class Settings(PluginSettings):
    key: SecretStr = SecretStr("")
    names: tuple[str, ...] = ()
    limits: Limits = Limits()
    count: int = Field(default=1, ge=1)


def sources(
    *,
    code: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    file: dict[str, Any] | None = None,
) -> Sources:
    return Sources(code=code or {}, environ=environ or {}, file=file or {}, path="my.toml")


def test_code_is_stronger_than_environment_and_environment_than_file() -> None:
    found = sources(
        file={"plugins": {"notes": {"count": 2, "names": ["file"], "limits": {"low": 2}}}},
        environ={"KAIZEN_NOTES__COUNT": "3", "KAIZEN_NOTES__LIMITS__HIGH": "7"},
        code={"notes": {"count": 4}},
    ).plugin("notes", Settings)

    assert (found.count, found.names) == (4, ("file",))
    assert (found.limits.low, found.limits.high) == (2, 7)


def test_lists_and_tables_stand_in_the_environment_as_json() -> None:
    environ = {
        "KAIZEN_MY_NOTES__NAMES": '["a", "b"]',
        "KAIZEN_MY_NOTES__LIMITS": '{"low": 3}',
    }
    found = sources(environ=environ).plugin("my-notes", Settings)
    assert found.names == ("a", "b")
    assert found.limits.low == 3


def test_a_secret_is_read_from_the_variable_that_is_named_for_it() -> None:
    file = {"plugins": {"notes": {"key": {"env": "NOTES_KEY"}}}}
    found = sources(file=file, environ={"NOTES_KEY": SECRET}).plugin("notes", Settings)
    assert found.key.get_secret_value() == SECRET
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"file": {"plugins": {"notes": {"count": SECRET}}}}, r"'count' \(from my.toml\)"),
        ({"environ": {"KAIZEN_NOTES__COUNT": SECRET}}, r"'count' \(from the environment\)"),
        ({"code": {"notes": {"count": SECRET}}}, r"'count' \(from code\)"),
        ({"code": {"notes": {"cuont": 1}}}, "'cuont'.*is unknown; known: .*count"),
        ({"file": {"plugins": {"notes": 1}}}, r"my.toml: plugins.notes is not a table"),
        ({"file": {"plugins": 1}}, "my.toml: plugins is not a table"),
    ],
)
def test_a_wrong_setting_says_where_it_stands(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        sources(**given).plugin("notes", Settings)
    assert SECRET not in str(caught.value)


def test_the_environment_configures_the_kernel() -> None:
    config = sources(
        environ={
            "KAIZEN_DEFAULT_PROVIDER": "openai",
            "KAIZEN_LOG_LEVEL": "DEBUG",
            "KAIZEN_PERFORMANCE_TRACKING": "true",
            "KAIZEN_ERROR_HANDLING": "lenient",
            "KAIZEN_PLUGINS": "a, b,",
            "KAIZEN_AGENT": '{"model": "gpt"}',
        }
    ).kernel({})

    assert (config.default_provider, config.log_level) == ("openai", "DEBUG")
    assert (config.performance_tracking, config.error_handling) == (True, "lenient")
    assert config.plugins == ("a", "b")
    assert config.agent == {"model": "gpt"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[kaizen", "is not valid TOML"),
        (b"\xff", "is not valid TOML"),
        (b"a = " + b"[" * 100_000, "is not valid TOML"),
        (b" " * (MAX_CONFIG_BYTES + 1), "is larger than"),
    ],
    ids=["broken", "bytes", "deep", "large"],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    file = tmp_path / "kaizen.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"kaizen.toml' {problem}"):
        read_config(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"kaizen\.toml' cannot be read"):
        read_config(tmp_path / "kaizen.toml")


def test_an_explanation_names_the_place_inside_a_setting() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(limits={"high": SECRET})  # type: ignore[arg-type]
    told = explain(caught.value)
    assert told.startswith("cannot be used: 'limits.high': ")
    assert SECRET not in told


def everything_told(error: BaseException | None) -> str:
    """What an error and all the errors behind it say."""
    told = ""
    while error is not None:
        told += f"{error}{error!r}{vars(error)}"
        error = error.__cause__ or error.__context__
    return told


@pytest.mark.parametrize(
    "value", [SECRET, {"key": SECRET}, [SECRET]], ids=["text", "table", "list"]
)
def test_what_a_validator_says_is_not_told_if_it_tells_the_value(value: Any) -> None:
    class Telling(PluginSettings):
        key: Any = None

        @field_validator("key")
        @classmethod
        def refuse(cls, key: Any) -> Any:
            raise ValueError(f"{key!r} is no key")

    with pytest.raises(ConfigurationError, match=r"'key'.*: is not valid") as told:
        sources(code={"notes": {"key": value}}).plugin("notes", Telling)
    assert SECRET not in everything_told(told.value)


def test_what_a_validator_says_is_told_if_it_does_not_tell_the_value() -> None:
    class Helpful(PluginSettings):
        key: str = ""

        @field_validator("key")
        @classmethod
        def refuse(cls, key: str) -> str:
            raise ValueError("begins with sk-")

    with pytest.raises(ConfigurationError, match="begins with sk-"):
        sources(code={"notes": {"key": SECRET}}).plugin("notes", Helpful)


def test_defaults_of_agents_that_do_not_fit_tell_no_value() -> None:
    with pytest.raises(ConfigurationError, match="'max_cycles': Input should be") as told:
        sources(code={}).kernel({"agent": {"max_cycles": SECRET}})
    assert SECRET not in everything_told(told.value)


def test_what_a_provider_is_told_is_never_shown() -> None:
    table = {"agent": {"provider_config": {"api_key": {"env": "API_KEY"}}}}
    found = sources(file={"kaizen": table}, environ={"API_KEY": SECRET})
    config = found.kernel({})
    assert config.agent_defaults["provider_config"] == {"api_key": SECRET}
    own = AgentConfig.extract(config.agent_defaults)
    assert SECRET not in f"{config!r} {config} {own!r} {own} {found!r}"


def test_each_default_of_agents_has_a_variable() -> None:
    found = sources(
        file={"kaizen": {"agent": {"model": "file", "max_cycles": 3}}},
        environ={
            "KAIZEN_AGENT": '{"temperature": 0.5, "timeout": 1}',
            "KAIZEN_AGENT__MODEL": "gpt",
            "KAIZEN_AGENT__TIMEOUT": "2.5",
            "KAIZEN_AGENT__PROVIDER_CONFIG__REGION": "eu",
        },
    )
    config = AgentConfig.extract(found.kernel({}).agent_defaults)
    assert (config.model, config.max_cycles, config.temperature) == ("gpt", 3, 0.5)
    assert (config.timeout, config.provider_config) == (2.5, {"region": "eu"})


def test_a_misspelt_variable_of_agents_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'modle' is unknown; known: llm_provider"):
        sources(environ={"KAIZEN_AGENT__MODLE": "gpt"}).kernel({})
