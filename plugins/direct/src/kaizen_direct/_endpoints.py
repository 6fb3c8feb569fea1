"""The endpoints that are known by name, and what the settings make of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, Literal, TypeAlias
from urllib.parse import quote, urlsplit

from kaizen.errors import ConfigurationError
from pydantic import SecretStr

from kaizen_direct._keys import Keys
from kaizen_direct._settings import EndpointSettings, Kind, checked_url

__all__ = ["ADDRESS_VARIABLES", "PRESETS", "Endpoint", "endpoints"]

Auth: TypeAlias = Literal["bearer", "x-api-key", "api-key", "both"]
"""The header in which the key stands; `both` is `bearer` and `api-key`."""

AZURE_VERSION = "2024-10-21"
AZURE_AI_VERSION = "2024-05-01-preview"
ADDRESS_VARIABLES = (
    "ANTHROPIC_BASE_URL",
    "AZURE_AI_INFERENCE_ENDPOINT",
    "AZURE_OPENAI_ENDPOINT",
    "OLLAMA_HOST",
    "OPENAI_BASE_URL",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What is known of an endpoint.

    Attributes:
        base_url: Its address without a slash at the end, or `""` if nobody said it.
        key_variables: Where its key is looked for, in order.
        key_from: Where one gets a key.
        needs_key: Whether it refuses who has none.
        query: What stands behind each path, such as `?api-version=1`.
        deployments: Whether the model is a part of the path, as with Azure.
        model: The model of those who name none; `""` for the first that it lists.
        catalogue: Whose models and prices these are.
        local: Whether its use costs nothing.
        continues: Whether it goes on from a prefix; `None` if its model decides.
        extends: Whether it is told so by `continue_final_message`.
        schema_with_tools: Whether it can offer tools and still hold a reply to a schema.
        lists: Whether it says which models there are.
        insecure: Whether its key may be sent unencrypted to another machine.
        probe: The path that says whether it is there, for servers on this machine.
    """

    name: str
    kind: Kind = "openai"
    description: str = ""
    base_url: str = ""
    key_variables: tuple[str, ...] = ()
    key: SecretStr | None = None
    key_from: str = ""
    needs_key: bool = False
    auth: Auth = "bearer"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: str = ""
    deployments: bool = False
    model: str = ""
    embed_model: str = ""
    transcribe_model: str = ""
    catalogue: str = ""
    local: bool = False
    continues: bool | None = False
    extends: bool = False
    tools: bool = True
    structured_output: bool = True
    schema_with_tools: bool = False
    media: frozenset[str] = frozenset({"image"})
    context_window: int | None = None
    max_output_tokens: int | None = None
    max_tokens_field: str = "max_tokens"
    stream_usage: bool = True
    packed_vectors: bool = False
    preference: int | None = None
    lists: bool = True
    insecure: bool = False
    probe: str = ""

    @property
    def exposes_its_key(self) -> bool:
        """Whether a key would be sent unencrypted to another machine."""
        plain = self.base_url.startswith("http:")
        return plain and not self.insecure and not _is_near(_host(self.base_url))

    def url(self, path: str, model: str) -> str:
        """Return the address of one of its functions."""
        if not self.deployments:
            return f"{self.base_url}{path}{self.query}"
        place = f"/openai/deployments/{quote(model, safe='')}"
        return f"{self.base_url}{place}{path}{self.query}"


PRESETS: Mapping[str, Endpoint] = {
    each.name: each
    for each in (
        Endpoint(
            name="openai",
            description="OpenAI's models.",
            base_url="https://api.openai.com/v1",
            key_variables=("OPENAI_API_KEY",),
            key_from="https://platform.openai.com/api-keys",
            needs_key=True,
            model="gpt-4o-mini",
            embed_model="text-embedding-3-small",
            transcribe_model="whisper-1",
            catalogue="openai",
            schema_with_tools=True,
            max_tokens_field="max_completion_tokens",
            packed_vectors=True,
            preference=10,
        ),
        Endpoint(
            name="azure",
            description="Models in Azure: OpenAI deployments, or AI inference.",
            key_from="https://portal.azure.com, with your resource",
            needs_key=True,
            auth="api-key",
            catalogue="openai",
            schema_with_tools=True,
            preference=20,
            lists=False,
        ),
        Endpoint(
            name="anthropic",
            kind="anthropic",
            description="Anthropic's models.",
            base_url="https://api.anthropic.com",
            key_variables=("ANTHROPIC_API_KEY",),
            key_from="https://console.anthropic.com/settings/keys",
            needs_key=True,
            auth="x-api-key",
            model="claude-haiku-4-5",
            catalogue="anthropic",
            continues=None,
            schema_with_tools=True,
            media=frozenset({"image", "document"}),
            preference=30,
        ),
        Endpoint(
            name="ollama",
            kind="ollama",
            description="Models that Ollama runs on this machine.",
            base_url="http://127.0.0.1:11434",
            key_variables=("OLLAMA_API_KEY",),
            local=True,
            continues=True,
            preference=50,
            probe="/api/tags",
        ),
        Endpoint(
            name="docker",
            description="Models that Docker Model Runner runs on this machine.",
            base_url="http://127.0.0.1:12434/engines/v1",
            local=True,
            continues=True,
            extends=True,
            preference=60,
            probe="/models",
        ),
        Endpoint(
            name="vllm",
            description="Models that a vLLM server runs.",
            base_url="http://127.0.0.1:8000/v1",
            key_variables=("VLLM_API_KEY",),
            local=True,
            continues=True,
            extends=True,
            probe="/models",
        ),
        Endpoint(
            name="lm_studio",
            description="Models that LM Studio runs on this machine.",
            base_url="http://127.0.0.1:1234/v1",
            key_variables=("LM_STUDIO_API_KEY",),
            local=True,
            probe="/models",
        ),
    )
}
_OWN: Mapping[Kind, dict[str, Any]] = {
    "openai": {"description": "An OpenAI-compatible endpoint of yours."},
    "anthropic": {
        "description": "An endpoint of yours that speaks as Anthropic's.",
        "auth": "x-api-key",
        "continues": None,
        "schema_with_tools": True,
        "media": frozenset({"image", "document"}),
    },
    "ollama": {"description": "An Ollama server of yours.", "continues": True},
}


def endpoints(settings: Mapping[str, EndpointSettings], keys: Keys) -> Iterator[Endpoint]:
    """Give every endpoint: those that are known, then those of the settings.

    Raises:
        ConfigurationError: An endpoint has no address, or one that cannot be.
    """
    for name in dict.fromkeys((*PRESETS, *settings)):
        given = settings.get(name, EndpointSettings())
        found = (
            _placed(PRESETS[name], given, keys) if name in PRESETS else _own(name, given)
        )
        yield _adjusted(found, given)


def _own(name: str, given: EndpointSettings) -> Endpoint:
    if given.base_url is None:
        raise ConfigurationError(
            f"[plugins.direct.endpoints.{name}]", "has no `base_url`", "Say where it is."
        )
    kind = given.kind or "openai"
    return Endpoint(name=name, kind=kind, **_OWN[kind])


def _placed(preset: Endpoint, given: EndpointSettings, keys: Keys) -> Endpoint:
    """Return an endpoint with the address that the environment gives."""
    if preset.name == "azure":
        return _azure(preset, given, keys)
    if preset.name == "ollama":
        host = keys.address("OLLAMA_HOST")
        return replace(preset, base_url=_ollama_url(host)) if host else preset
    variable = f"{preset.name.upper()}_BASE_URL"
    if variable not in ADDRESS_VARIABLES or not (found := keys.address(variable)):
        return preset
    return replace(preset, base_url=_from_environment(variable, found))


def _azure(preset: Endpoint, given: EndpointSettings, keys: Keys) -> Endpoint:
    """Return one of the two ways in: the one of which address and key are there."""
    ways = {
        "AZURE_AI_INFERENCE_ENDPOINT": "AZURE_AI_INFERENCE_API_KEY",
        "AZURE_OPENAI_ENDPOINT": "AZURE_OPENAI_API_KEY",
    }
    known = {
        way: address for way in ways if (address := keys.address(way) or given.base_url)
    }
    complete = [way for way in known if keys.find([ways[way]])]
    way = next(iter(complete or known), "AZURE_AI_INFERENCE_ENDPOINT")
    if given.base_url and ".openai.azure." in given.base_url:
        way = "AZURE_OPENAI_ENDPOINT"
    url = given.base_url or _from_environment(way, known.get(way, ""))
    base = replace(preset, base_url=url, key_variables=(ways[way],))
    if way == "AZURE_OPENAI_ENDPOINT":
        return _azure_openai(base, given.api_version or keys.address("OPENAI_API_VERSION"))
    if urlsplit(url).path in ("", "/") and url.endswith(".services.ai.azure.com"):
        url = f"{url}/models"
    version = given.api_version or AZURE_AI_VERSION
    query = "" if url.endswith("/v1") else f"?api-version={version}"
    return replace(base, base_url=url, auth="both", query=query)


def _azure_openai(base: Endpoint, version: str) -> Endpoint:
    base = replace(base, max_tokens_field="max_completion_tokens", packed_vectors=True)
    url = base.base_url.removesuffix("/openai")
    if version in ("v1", "preview") or url.endswith("/openai/v1"):
        url = url if url.endswith("/openai/v1") else f"{url}/openai/v1"
        query = "?api-version=preview" if version == "preview" else ""
        return replace(base, base_url=url, query=query)
    query = f"?api-version={quote(version or AZURE_VERSION, safe='')}"
    return replace(base, base_url=url, query=query, deployments=True)


def _ollama_url(host: str) -> str:
    """Return the address that OLLAMA_HOST means, which is written for the server, too."""
    if "://" not in host:
        host = f"http://127.0.0.1{host}" if host.startswith(":") else f"http://{host}"
        default: int | None = 11434
    else:
        default = None
    url = _from_environment("OLLAMA_HOST", host)
    parts = urlsplit(url)
    name, port = parts.hostname or "", parts.port or default
    if name in ("0.0.0.0", "::"):  # noqa: S104 - where it listens; we ask it on loopback
        name = "127.0.0.1"
    if ":" in name:
        name = f"[{name}]"
    place = name if port is None else f"{name}:{port}"
    return f"{parts.scheme}://{place}{parts.path}"


def _from_environment(variable: str, value: str) -> str:
    try:
        return checked_url(value) if value else ""
    except ValueError as error:
        problem = str(error)
    raise ConfigurationError(
        f"environment variable {variable!r}", problem, "Correct it, or unset it."
    )


_CHANGED = frozenset(
    {
        "base_url",
        "catalogue",
        "context_window",
        "continues",
        "headers",
        "insecure",
        "kind",
        "local",
        "max_output_tokens",
        "max_tokens_field",
        "media",
        "model",
        "preference",
        "stream_usage",
        "structured_output",
        "tools",
    }
)


def _adjusted(endpoint: Endpoint, given: EndpointSettings) -> Endpoint:
    """Return an endpoint as the settings want it."""
    changes = {name: getattr(given, name) for name in _CHANGED & given.model_fields_set}
    if endpoint.name == "azure":
        changes.pop("base_url", None)  # `_azure` has read it
    changes = {name: value for name, value in changes.items() if value is not None}
    if endpoint.local and not _is_near(_host(changes.get("base_url", endpoint.base_url))):
        changes.setdefault("local", False)  # somebody else's machine may cost something
    if given.continues and endpoint.kind == "openai":
        changes["extends"] = True
    if given.api_key_env:
        changes["key_variables"] = (given.api_key_env,)
    if given.api_key is not None:
        changes["key"] = given.api_key
    if given.api_key is not None or given.api_key_env:
        changes["needs_key"] = True
    return replace(endpoint, **changes)


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _is_near(host: str) -> bool:
    """Whether a host is this machine, or one of a network of its own."""
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
    return address.is_loopback or address.is_private
