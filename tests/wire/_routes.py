"""Which address belongs to which provider."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tests.wire import _anthropic as anthropic
from tests.wire import _cohere as cohere
from tests.wire import _gemini as gemini
from tests.wire import _ollama as ollama
from tests.wire import _openai as openai
from tests.wire import _responses as responses
from tests.wire._api import Api, Page, Refused
from tests.wire.script import Request

__all__ = ["BASES", "Routes"]

# What comes behind the server's root in the base address that a client is given.
BASES: Mapping[str, str] = {
    "openai": "/v1",
    "azure": "",
    "azure_ai": "/azure_ai",
    "anthropic": "",
    "google": "",
    "ollama": "/ollama",
    "cohere": "/cohere",
    "docker": "/engines/llama.cpp/v1",
    "huggingface": "/huggingface/v1",
    "local": "/local/v1",
}

Route = tuple[str, str, type[Api]]
DEPLOYMENT = r"/openai/deployments/(?P<model>[^/]+)"
LOCAL = r"(/engines(/[^/]+)?|/ollama|/docker|/local)/v1"
HUGGINGFACE = r"/huggingface(/v1)?"
GEMINI = r"(/v1beta|/v1)?/models/(?P<model>[^/:]+)"
# The first that fits. A path may begin with its provider's name, and has to where others
# have the same address.
ROUTES: Sequence[Route] = (
    ("POST", rf"{LOCAL}/chat/completions", openai.LocalChat),
    ("POST", rf"{LOCAL}/embeddings", openai.LocalEmbeddings),
    ("GET", rf"{LOCAL}/models", openai.LocalModels),
    ("POST", rf"{HUGGINGFACE}/chat/completions", openai.HuggingFaceChat),
    ("POST", rf"(/azure)?{DEPLOYMENT}/chat/completions", openai.AzureChat),
    ("POST", rf"(/azure)?{DEPLOYMENT}/embeddings", openai.AzureEmbeddings),
    (
        "POST",
        rf"(/azure)?{DEPLOYMENT}/audio/transcriptions",
        openai.AzureTranscriptions,
    ),
    ("POST", r"(/azure)?/openai/v1/chat/completions", openai.AzureV1Chat),
    ("POST", r"(/azure)?/openai/v1/embeddings", openai.AzureEmbeddings),
    ("POST", r"(/azure)?/openai/(v1/)?responses", responses.AzureResponses),
    ("POST", r"(/azure_ai)?(/models)?/chat/completions", openai.AzureAi),
    ("POST", r"(/openai)?/v1/chat/completions", openai.OpenAiChat),
    ("POST", r"(/openai)?/v1/responses", responses.OpenAiResponses),
    ("POST", r"(/openai)?/v1/embeddings", openai.OpenAiEmbeddings),
    ("POST", r"(/openai)?/v1/audio/transcriptions", openai.OpenAiTranscriptions),
    ("POST", r"(/anthropic)?/v1/messages", anthropic.AnthropicMessages),
    ("GET", r"(/google)?/v1(beta)?/models", gemini.GeminiModels),
    ("GET", r"(/anthropic)?/v1/models", anthropic.AnthropicModels),
    ("GET", r"(/cohere)?/v1/models", cohere.CohereModels),
    ("GET", r"(/openai)?/v1/models", openai.OpenAiModels),
    ("POST", rf"(/google)?{GEMINI}:generateContent", gemini.GeminiGenerate),
    ("POST", rf"(/google)?{GEMINI}:streamGenerateContent", gemini.GeminiStream),
    ("POST", rf"(/google)?{GEMINI}:(embed|batchEmbed)Contents?", gemini.GeminiEmbed),
    ("POST", r"(/ollama)?/api/chat", ollama.OllamaChat),
    ("POST", r"(/ollama)?/api/generate", ollama.OllamaGenerate),
    ("POST", r"(/ollama)?/api/embed(dings)?", ollama.OllamaEmbed),
    ("POST", r"(/ollama)?/api/show", ollama.OllamaShow),
    ("GET", r"(/ollama)?/api/tags", ollama.OllamaTags),
    ("GET", r"(/ollama)?/api/version", ollama.OllamaVersion),
    ("POST", r"(/cohere)?/v2/chat", cohere.CohereChat),
    ("POST", r"(/cohere)?/v2/embed", cohere.CohereEmbed),
)


class Routes:
    """Finds who answers."""

    def __init__(self, key: str, models: tuple[str, ...]) -> None:
        self._routes = [
            (method, re.compile(path), api(key, models)) for method, path, api in ROUTES
        ]

    def find(self, request: Request) -> Api:
        """Return who answers a request, and say in it who was asked.

        Raises:
            Refused: There is nobody.
        """
        for method, pattern, api in self._routes:
            found = pattern.fullmatch(request.path)
            if found and method == request.method and meant(api, request):
                named = re.match(r"/(ollama|local)/v1/", request.path)
                request.provider = named[1] if named else api.provider
                request.kind = api.kind
                request.model = found.groupdict().get("model") or ""
                return api
        raise Refused(Page(b"404 page not found\n", 404, "text/plain"))


def meant(api: Api, request: Request) -> bool:
    """Say whether a request to an address that several providers have means this one."""
    if request.path != "/v1/models":
        return True
    named = "anthropic" if anthropic.is_anthropic(request.headers) else "openai"
    if "x-goog-api-key" in request.headers:
        named = "google"
    return api.provider == named
