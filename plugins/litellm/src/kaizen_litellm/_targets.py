"""The providers that are offered by name, and what the settings make of them.

Where litellm wants an address says this module, so that nobody else has to know: some of
its routes take the root, some a version, some the whole address of a function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from kaizen.errors import ConfigurationError
from pydantic import SecretStr

from kaizen_litellm._keys import Keys
from kaizen_litellm._names import (
    CLOUDS,
    EMBED_ONLY,
    HEAR_ONLY,
    KEY_FROM,
    OPEN,
    REFUSED,
    ROUTES,
    variables_of,
)
from kaizen_litellm._settings import ProviderSettings, checked_url

__all__ = ["ADDRESS_VARIABLES", "PRESETS", "Kind", "Target", "route_target", "target"]

Kind: TypeAlias = Literal["chat", "embed", "transcribe"]

AZURE_VERSION = "2024-10-21"
_ROUTE = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_KEY_ELSEWHERE = "its site, which is named at https://docs.litellm.ai/docs/providers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is known of a provider.

    Attributes:
        routes: What litellm calls it, by what is wanted; what is missing it cannot do.
        suffixes: What litellm wants behind `base_url`, by what is wanted.
        families: What litellm's price table calls it.
        base_url: Its address without a slash at the end; `""` if litellm knows it.
        base_variables: What says in the environment where it is.
        key_variables: Where its key is looked for, in order.
        key_from: Where one gets a key.
        needs_key: Whether it refuses who has none.
        stand_in: The key that is sent where there is none, since litellm wants one.
        local: Whether it runs models on this machine or near it, which costs nothing.
        continues: Whether it goes on from a prefix; `None` if its model decides.
        extends: Whether it is told so by `continue_final_message`.
        schema_with_tools: Whether it can offer tools and still hold a reply to a schema;
            `None` if its model decides.
        lists: The path that says which models there are, for servers on this machine.
    """

    name: str
    description: str = ""
    routes: Mapping[Kind, str] = field(default_factory=dict)
    suffixes: Mapping[Kind, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    base_url: str = ""
    base_variables: tuple[str, ...] = ()
    api_version: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    key_variables: tuple[str, ...] = ()
    key: SecretStr | None = None
    key_from: str = ""
    needs_key: bool = True
    stand_in: str = ""
    model: str = ""
    embed_model: str = ""
    transcribe_model: str = ""
    local: bool = False
    continues: bool | None = False
    extends: bool = False
    schema_with_tools: bool | None = None
    preference: int | None = None
    lists: str = ""
    insecure: bool = False

    def api_base(self, kind: Kind) -> str | None:
        """Return the address as litellm wants it, or `None` if it knows it."""
        if not self.base_url:
            return None
        suffix = self.suffixes.get(kind, "")
        if suffix and self.base_url.endswith(suffix):
            return self.base_url
        head = suffix.split("/")[1] if suffix else ""
        if head and f"/{head}/" in f"{urlsplit(self.base_url).path}/":
            return self.base_url + suffix.removeprefix(f"/{head}")
        return self.base_url + suffix

    @property
    def list_url(self) -> str:
        """The address that says which models there are.

        A user may have given the address for clients, which ends with a version.
        """
        root = self.base_url
        if suffix := self.suffixes.get("chat"):
            root = root.removesuffix(suffix)
        return root + self.lists

    def holds_with_tools(self, model: str, known: Mapping[str, Any]) -> bool:
        """Say whether a model can be offered tools and still be held to a schema.

        Where a provider has no schemas for replies, litellm makes the model call a tool
        that has the schema, and so it can never call any other. Claude is asked in the
        same way wherever it is.

        Args:
            known: What the table of models says of it.
        """
        if self.schema_with_tools is None or "claude" in model:
            return bool(known.get("supports_native_structured_output"))
        return self.schema_with_tools

    @property
    def exposes_its_key(self) -> bool:
        """Whether a key would be sent unencrypted to another machine."""
        parts = urlsplit(self.base_url)
        near = _is_near(parts.hostname or "")
        return parts.scheme == "http" and not near and not self.insecure


_OPENAI = Target(
    name="openai",
    description="OpenAI's models, through litellm.",
    routes={"chat": "openai", "embed": "openai", "transcribe": "openai"},
    families=("openai", "text-completion-openai"),
    base_url="https://api.openai.com/v1",
    base_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
    key_variables=("OPENAI_API_KEY",),
    key_from="https://platform.openai.com/api-keys",
    model="gpt-4o-mini",
    embed_model="text-embedding-3-small",
    transcribe_model="whisper-1",
    schema_with_tools=True,
    preference=10,
)
_AZURE = Target(
    name="azure",
    description="Models in Azure: OpenAI deployments, or AI inference; through litellm.",
    key_from="https://portal.azure.com, with your resource",
    families=("azure", "azure_ai", "openai"),
    schema_with_tools=True,
    preference=20,
)
_GOOGLE = Target(
    name="google",
    description="Google's Gemini models, through litellm.",
    routes={"chat": "gemini", "embed": "gemini"},
    suffixes={"chat": "/v1beta", "embed": "/v1beta"},
    families=("gemini",),
    base_url="https://generativelanguage.googleapis.com",
    base_variables=("GOOGLE_GEMINI_BASE_URL", "GEMINI_API_BASE"),
    key_variables=("GOOGLE_API_KEY", "GEMINI_API_KEY"),
    key_from="https://aistudio.google.com/apikey",
    model="gemini-2.5-flash",
    embed_model="gemini-embedding-001",
    schema_with_tools=False,
    preference=40,
)
PRESETS: Mapping[str, Target] = {
    each.name: each
    for each in (
        _OPENAI,
        _AZURE,
        Target(
            name="anthropic",
            description="Anthropic's models, through litellm.",
            routes={"chat": "anthropic"},
            families=("anthropic",),
            base_url="https://api.anthropic.com",
            base_variables=("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
            key_variables=("ANTHROPIC_API_KEY",),
            key_from="https://console.anthropic.com/settings/keys",
            model="claude-haiku-4-5",
            continues=None,
            preference=30,
        ),
        _GOOGLE,
        replace(_GOOGLE, name="gemini", preference=None),
        Target(
            name="ollama",
            description="Models that Ollama runs on this machine, through litellm.",
            # It speaks as OpenAI's do, too. By its own name for it, litellm asks the server
            # about the model, several times for each call, from the thread of the event
            # loop, and at an address of its own choice.
            routes={"chat": "openai", "embed": "openai"},
            suffixes={"chat": "/v1", "embed": "/v1"},
            families=("ollama",),
            base_url="http://127.0.0.1:11434",
            base_variables=("OLLAMA_HOST", "OLLAMA_API_BASE"),
            key_variables=("OLLAMA_API_KEY",),
            needs_key=False,
            stand_in="ollama",
            local=True,
            continues=True,
            schema_with_tools=False,
            preference=50,
            lists="/api/tags",
        ),
        Target(
            name="docker",
            description="Models that Docker Model Runner runs here, through litellm.",
            routes={"chat": "openai", "embed": "openai"},
            base_url="http://127.0.0.1:12434/engines/v1",
            needs_key=False,
            stand_in="docker",
            local=True,
            continues=True,
            extends=True,
            schema_with_tools=False,
            preference=60,
            lists="/models",
        ),
        Target(
            name="cohere",
            description="Cohere's models, through litellm.",
            routes={"chat": "cohere_chat", "embed": "cohere"},
            suffixes={"chat": "/v2/chat", "embed": "/v2/embed"},
            families=("cohere_chat", "cohere"),
            base_url="https://api.cohere.com",
            base_variables=("CO_API_URL", "COHERE_API_BASE"),
            key_variables=("COHERE_API_KEY", "CO_API_KEY"),
            key_from="https://dashboard.cohere.com/api-keys",
            model="command-a-03-2025",
            embed_model="embed-v4.0",
            schema_with_tools=False,
        ),
        Target(
            name="huggingface",
            description="Models behind Hugging Face's router, through litellm.",
            # It speaks as OpenAI's does. By its own name for it, litellm asks
            # huggingface.co about the model, several times for each call.
            routes={"chat": "openai"},
            suffixes={"chat": "/v1"},
            families=("huggingface",),
            base_url="https://router.huggingface.co",
            base_variables=("HF_API_BASE", "HUGGINGFACE_API_BASE"),
            key_variables=("HF_TOKEN", "HUGGINGFACE_API_KEY"),
            key_from="https://huggingface.co/settings/tokens",
            schema_with_tools=False,
        ),
    )
}
_AZURE_WAYS: Mapping[str, tuple[tuple[str, ...], Mapping[Kind, str]]] = {
    "AZURE_AI_INFERENCE_ENDPOINT": (
        ("AZURE_AI_INFERENCE_API_KEY", "AZURE_AI_API_KEY"),
        {"chat": "azure_ai", "embed": "azure_ai"},
    ),
    "AZURE_OPENAI_ENDPOINT": (
        ("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
        {"chat": "azure", "embed": "azure", "transcribe": "azure"},
    ),
}
_AZURE_OTHER_NAMES = {
    "AZURE_AI_API_BASE": "AZURE_AI_INFERENCE_ENDPOINT",
    "AZURE_API_BASE": "AZURE_OPENAI_ENDPOINT",
}
ADDRESS_VARIABLES = (
    *_AZURE_WAYS,
    *_AZURE_OTHER_NAMES,
    *(name for each in PRESETS.values() for name in each.base_variables),
)


def target(name: str, given: ProviderSettings, keys: Keys) -> Target:
    """Return what is known of a provider that is offered by name.

    Raises:
        ConfigurationError: The environment gives an address that cannot be one.
    """
    preset = PRESETS[name]
    if name == "azure":
        return _adjusted(_azure(preset, given, keys), given)
    variable, found = keys.address(*preset.base_variables)
    if found and name == "ollama":
        preset = replace(preset, base_url=_ollama_url(variable, found))
    elif found:
        preset = replace(preset, base_url=_from_environment(variable, found))
    made = _adjusted(preset, given)
    near = _is_near(urlsplit(made.base_url).hostname or "")
    return replace(made, local=made.local and near)


def route_target(route: str, given: ProviderSettings | None) -> Target:
    """Return what is known of a route of litellm that is offered under no name of its own.

    Its address is litellm's affair; its key is looked for where litellm would.

    Raises:
        ConfigurationError: There is no such route, or it is not asked here.
    """
    is_given = given is not None and _ROUTE.fullmatch(route)
    if route not in ROUTES | REFUSED and not is_given:
        near = get_close_matches(route.lower(), ROUTES | PRESETS.keys(), n=1)
        meant = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"route {route!r}",
            "is none of litellm's",
            f"{meant}Write the model as `provider/model`.",
        )
    if route in REFUSED:
        raise ConfigurationError(
            f"route {route!r}",
            "is not asked here: litellm asks it past the limits that hold for all others",
            "If it speaks as OpenAI does, use another route, such as `custom_openai`.",
        )
    known = Target(
        name=route,
        routes=dict.fromkeys(_kinds_of(route), route),
        families=(route,),
        key_variables=variables_of(route),
        key_from=KEY_FROM.get(route, "" if route in OPEN else _KEY_ELSEWHERE),
        # Who sends headers of their own may have a key in one of them.
        needs_key=route in ROUTES - CLOUDS - OPEN and not (given and given.headers),
        continues=None,
    )
    return known if given is None else _adjusted(known, given)


def _kinds_of(route: str) -> tuple[Kind, ...]:
    """Return what a route can be asked for, as far as that is known."""
    if route in EMBED_ONLY:
        return ("embed",)
    return ("transcribe",) if route in HEAR_ONLY else ("chat", "embed", "transcribe")


def _azure(preset: Target, given: ProviderSettings, keys: Keys) -> Target:
    """Return one of the two ways in: the one of which address and key are there."""
    ways: dict[str, tuple[str, str]] = {}
    for variable in (*_AZURE_WAYS, *_AZURE_OTHER_NAMES):
        said, address = keys.address(variable)
        if address:
            ways.setdefault(_AZURE_OTHER_NAMES.get(variable, variable), (said, address))
    complete = [way for way in ways if keys.find(_AZURE_WAYS[way][0])]
    if given.base_url and not ways:
        complete = [way for way in _AZURE_WAYS if keys.find(_AZURE_WAYS[way][0])]
    way = next(iter(complete or ways), "AZURE_AI_INFERENCE_ENDPOINT")
    if given.base_url and ".openai.azure." in given.base_url:
        way = "AZURE_OPENAI_ENDPOINT"
    variables, routes = _AZURE_WAYS[way]
    variable, address = ways.get(way, ("", ""))
    url = _from_environment(variable, address) if address else ""
    _, version = keys.address("OPENAI_API_VERSION", "AZURE_API_VERSION")
    made = replace(preset, base_url=url, key_variables=variables, routes=routes)
    if way == "AZURE_OPENAI_ENDPOINT":
        return replace(made, api_version=version or AZURE_VERSION)
    return made


def _adjusted(known: Target, given: ProviderSettings) -> Target:
    """Return a provider as the settings want it."""
    changes: dict[str, Any] = {
        name: getattr(given, name)
        for name in given.model_fields_set
        - {"api_key_env", "api_key", "base_url", "api_version"}
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if given.base_url is not None:
        changes["base_url"] = given.base_url
    if given.api_version:
        changes["api_version"] = given.api_version
    if given.api_key_env:
        changes["key_variables"] = (given.api_key_env,)
    if given.api_key is not None:
        changes["key"] = given.api_key
    if given.api_key is not None or given.api_key_env:
        changes["needs_key"] = True
    return replace(known, **changes)


def _ollama_url(variable: str, host: str) -> str:
    """Return the address that OLLAMA_HOST means, which is written for the server, too."""
    plain = "://" not in host
    if plain:
        host = f"http://127.0.0.1{host}" if host.startswith(":") else f"http://{host}"
    parts = urlsplit(_from_environment(variable, host))
    name, port = parts.hostname or "", parts.port or (11434 if plain else None)
    if name in ("0.0.0.0", "::"):  # noqa: S104 - where it listens; we ask it on loopback
        name = "127.0.0.1"
    if ":" in name:
        name = f"[{name}]"
    place = name if port is None else f"{name}:{port}"
    return f"{parts.scheme}://{place}{parts.path}"


def _from_environment(variable: str, value: str) -> str:
    try:
        return checked_url(value)
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(
        f"environment variable {variable!r}", problem, "Correct it, or unset it."
    )


def _is_near(host: str) -> bool:
    """Whether a host is this machine, or one of a network of its own."""
    if not host:
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
    return address.is_loopback or address.is_private
