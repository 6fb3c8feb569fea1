"""litellm, as it is used here. Importing this module imports it, which takes seconds.

Whoever imports litellm gets what it does by itself: it exports the `.env` of the working
directory and of all folders above it, fetches a table of prices, and writes to the standard
streams. Python imports a module once and under a lock, which makes a module the right place
for what has to be done around that import exactly once:

| variable | set to | what litellm does otherwise |
|---|---|---|
| `LITELLM_MODE` | `PRODUCTION` | exports what stands in `.env` |
| `LITELLM_LOCAL_MODEL_COST_MAP` | `True` | fetches prices from the network |
| `LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS` | `True` | fetches names of headers |
| `LITELLM_LOCAL_BLOG_POSTS` | `True` | fetches news |

They are set while litellm is imported, and only where the environment does not say
otherwise. The second and third stay, since litellm looks at them again in its first calls.
Afterwards three switches of litellm are set for the process: no words on the standard
output, no telemetry, and no tokenizers from the network. What litellm and the `openai`
library log of calls of ours is dropped, as it quotes prompts; what they log of others is
not. The functions with which it prepares a request tell a call of ours what they made.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from kaizen_litellm._call import QUIET, handing_over, not_ours
from kaizen_litellm._clients import SharedCache, SharedClient

__all__ = ["handler", "internal", "litellm", "others", "warm"]

_BRIEFLY = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_BLOG_POSTS": "True"}
_FOR_GOOD = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
}
_LOGS = ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router", "openai", "openai._base_client")
# What pydantic would build in the first call.
_BUILT = (
    "Message",
    "Delta",
    "Usage",
    "Choices",
    "StreamingChoices",
    "ModelResponse",
    "ModelResponseStream",
    "EmbeddingResponse",
    "TranscriptionResponse",
)
# What litellm runs in a thread before it sends anything.
_PREPARES = ("completion", "embedding", "transcription")
# What litellm ignores for the process when it is imported; a test runner forgets that.
_IGNORED = (
    ".*conflict with protected namespace.*",
    ".*Accessing the.*attribute on the instance is deprecated.*",
    ".*`ReadOnly` qualifier.*",
)
_WITHOUT_OPENAI = frozenset({"anthropic", "cohere_chat", "gemini"})


@contextmanager
def _environment() -> Iterator[None]:
    for name, value in _FOR_GOOD.items():
        os.environ.setdefault(name, value)
    added = [name for name in _BRIEFLY if name not in os.environ]
    os.environ.update({name: _BRIEFLY[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _imported() -> tuple[Any, Any, Any]:
    """Import litellm and quieten it.

    Returns:
        The library, its HTTP client, and its mark of calls for which it keeps no log.
    """
    is_first = "litellm" not in sys.modules
    for name in _LOGS:
        logging.getLogger(name).addFilter(not_ours)
    quiet = QUIET.set(True)
    with _environment():
        library = import_module("litellm")
        client = import_module("litellm.llms.custom_httpx.http_handler").AsyncHTTPHandler
        mark = import_module("litellm._internal_context").is_internal_call
        main = import_module("litellm.main")
        types = import_module("litellm.types.utils")
    _switch_off(library)
    for name in _PREPARES:
        setattr(main, name, handing_over(getattr(main, name)))
    for name in _BUILT:
        getattr(types, name).model_rebuild()
    if is_first:
        # It writes to the standard error what also goes to whoever listens to its loggers.
        for name in _LOGS[:3]:
            logging.getLogger(name).handlers.clear()
    QUIET.reset(quiet)
    return library, client, mark


def _switch_off(library: Any) -> None:
    library.suppress_debug_info = True
    library.telemetry = False
    library.disable_hf_tokenizer_download = True
    routes = tuple(str(getattr(each, "value", each)) for each in library.provider_list)
    cache = library.in_memory_llm_clients_cache
    library.in_memory_llm_clients_cache = SharedCache(cache, routes)
    library.module_level_aclient = SharedClient(library.module_level_aclient)


litellm, handler, internal = _imported()


def others() -> frozenset[str]:
    """Return the keys that litellm sends to whomever it knows no key of."""
    found = (litellm.api_key, litellm.openai_key, os.environ.get("OPENAI_API_KEY"))
    return frozenset(key for key in found if key)


def warm(route: str) -> None:
    """Do what the first call of a route would do, for it must not hold up an event loop.

    The resources of the `openai` library take longest; whoever speaks otherwise is spared
    them.
    """
    for pattern in _IGNORED:
        warnings.filterwarnings("ignore", message=pattern)
    if route not in _WITHOUT_OPENAI:
        import_module("openai.resources")
