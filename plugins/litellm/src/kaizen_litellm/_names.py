"""What litellm calls the providers that it reaches, and where it looks for their keys.

It is written down, so that a name can be told from a typo without importing litellm. A test
holds it to what the installed litellm knows.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "CLOUDS",
    "COHERE",
    "EMBED_ONLY",
    "HEAR_ONLY",
    "KEY_FROM",
    "OPEN",
    "REFUSED",
    "ROUTES",
    "WITHOUT_RETRIES",
    "variables_of",
]

_ROUTES = """
a2a abliteration ai21 ai21_chat aihubmix aiml anthropic_text apertis assemblyai
azure_ai azure_text baseten bedrock bedrock_mantle cerebras charity_engine chutes
clarifai cloudflare codestral cognition cohere_chat cometapi compactifai cortecs
crusoe custom_openai darkbloom dashscope databricks datarobot deepgram deepinfra
deepseek docker_model_runner edenai elevenlabs empiriolabs empower featherless_ai
fireworks_ai friendliai galadriel gdc gigachat github gmi gradient_ai groq helicone
heroku hosted_vllm hyperbolic inception infinity jina_ai lambda_ai langflow
langgraph libertai litellm_proxy llamafile llamagate lm_studio meta meta_llama
minimax mistral modelscope moonshot morph nadir nano-gpt nebius neosantara novita
nscale nvidia_nim oci openai_like openrouter ovhcloud parasail perplexity pinstripes
poe predibase prism publicai qwen_ai_platform qwencloud ragflow reka sagemaker_chat
sagemaker_nova sail sambanova sap sarvam scaleway scx-ai snowflake soniox synthetic
tencent tensormesh together_ai triton v0 veniceai vercel_ai_gateway vertex_ai
vertex_ai_beta volcengine voyage wandb watsonx watsonx_text xai xiaomi_mimo
xinference zai
"""
_REFUSED = """
aiohttp_openai amazon_nova bytez chatgpt custom github_copilot lemonade maritalk
nlp_cloud ollama_chat oobabooga petals replicate sagemaker text-completion-codestral
text-completion-inception text-completion-openai vllm
"""
_CLOUDS = """
azure_ai azure_text bedrock bedrock_mantle databricks gigachat oci sagemaker_chat
sagemaker_nova sap vertex_ai vertex_ai_beta watsonx watsonx_text
"""
_OPEN = """
a2a docker_model_runner gdc hosted_vllm infinity langflow langgraph llamafile
lm_studio openai_like ovhcloud triton xinference
"""

ROUTES = frozenset(_ROUTES.split())
"""The routes that are asked here, but for those that are offered by a name of their own."""

REFUSED = frozenset(_REFUSED.split())
"""The routes that litellm asks past the limits that hold for all others: by HTTP clients of
its own, which know no limits and block; after asking somebody else about the model before
each call; or after signing in with a browser."""

CLOUDS = frozenset(_CLOUDS.split())
"""The routes that may have an account of a cloud instead of a key."""

OPEN = frozenset(_OPEN.split())
"""The routes that may need no key: servers of one's own, for the most part."""

EMBED_ONLY = frozenset({"infinity", "jina_ai", "openai_like", "voyage"})
"""The routes that litellm can ask for vectors, and for nothing else that is wanted here."""

HEAR_ONLY = frozenset({"deepgram", "elevenlabs", "soniox"})
"""The routes that litellm can ask what was said, and for nothing else."""

COHERE = "cohere_chat"
"""The route of Cohere's models, of whose answers litellm drops parts."""

WITHOUT_RETRIES = frozenset({"gradient_ai"})
"""The routes that refuse to be told how often to ask again."""

# Where litellm looks for a key, if not at `<ROUTE>_API_KEY`.
_KEY_VARIABLES: Mapping[str, str] = {
    "ai21_chat": "AI21_API_KEY",
    "aiml": "AIML_API_KEY AIMLAPI_KEY",
    "anthropic_text": "ANTHROPIC_API_KEY",
    "apertis": "STIMA_API_KEY",
    "azure_text": "AZURE_OPENAI_API_KEY AZURE_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "bedrock_mantle": "BEDROCK_MANTLE_API_KEY AWS_BEARER_TOKEN_BEDROCK",
    "cohere_chat": "COHERE_API_KEY CO_API_KEY",
    "cometapi": "COMETAPI_KEY COMETAPI_API_KEY",
    "datarobot": "DATAROBOT_API_TOKEN",
    "featherless_ai": "FEATHERLESS_AI_API_KEY FEATHERLESS_API_KEY",
    "fireworks_ai": (
        "FIREWORKS_API_KEY FIREWORKS_AI_API_KEY FIREWORKSAI_API_KEY FIREWORKS_AI_TOKEN"
    ),
    "friendliai": "FRIENDLIAI_API_KEY FRIENDLI_TOKEN",
    "jina_ai": "JINA_AI_API_KEY JINA_API_KEY JINA_AI_TOKEN",
    "lambda_ai": "LAMBDA_API_KEY",
    "meta_llama": "LLAMA_API_KEY",
    "nano-gpt": "NANOGPT_API_KEY",
    "openrouter": "OPENROUTER_API_KEY OR_API_KEY",
    "perplexity": "PERPLEXITY_API_KEY PERPLEXITYAI_API_KEY",
    "qwen_ai_platform": "QWEN_AI_PLATFORM_API_KEY DASHSCOPE_API_KEY",
    "qwencloud": "QWENCLOUD_API_KEY DASHSCOPE_API_KEY",
    "scaleway": "SCW_SECRET_KEY",
    "scx-ai": "SCX_API_KEY",
    "snowflake": "SNOWFLAKE_JWT",
    "tensormesh": "TENSORMESH_INFERENCE_API_KEY",
    "together_ai": (
        "TOGETHER_API_KEY TOGETHER_AI_API_KEY TOGETHERAI_API_KEY TOGETHER_AI_TOKEN"
    ),
    "veniceai": "VENICE_AI_API_KEY",
    "vercel_ai_gateway": "VERCEL_AI_GATEWAY_API_KEY VERCEL_OIDC_TOKEN",
    "volcengine": "VOLCENGINE_API_KEY ARK_API_KEY",
    "voyage": "VOYAGE_API_KEY VOYAGE_AI_API_KEY VOYAGE_AI_TOKEN",
    # These have nothing but an account.
    "oci": "",
    "sagemaker_chat": "",
    "sagemaker_nova": "",
    "sap": "",
    "vertex_ai": "",
    "vertex_ai_beta": "",
    "watsonx": "WATSONX_APIKEY WATSONX_API_KEY WX_API_KEY",
    "watsonx_text": "WATSONX_APIKEY WATSONX_API_KEY WX_API_KEY",
}

KEY_FROM: Mapping[str, str] = {
    "ai21": "https://studio.ai21.com/account/api-key",
    "cerebras": "https://cloud.cerebras.ai",
    "custom_openai": "",
    "dashscope": "https://modelstudio.console.alibabacloud.com",
    "deepinfra": "https://deepinfra.com/dash/api_keys",
    "deepseek": "https://platform.deepseek.com/api_keys",
    "fireworks_ai": "https://app.fireworks.ai/settings/users/api-keys",
    "github": "https://github.com/settings/tokens",
    "groq": "https://console.groq.com/keys",
    "litellm_proxy": "",
    "mistral": "https://console.mistral.ai/api-keys",
    "moonshot": "https://platform.moonshot.ai/console/api-keys",
    "nvidia_nim": "https://build.nvidia.com",
    "openrouter": "https://openrouter.ai/settings/keys",
    "perplexity": "https://www.perplexity.ai/settings/api",
    "sambanova": "https://cloud.sambanova.ai/apis",
    "together_ai": "https://api.together.ai/settings/api-keys",
    "voyage": "https://dashboard.voyageai.com",
    "xai": "https://console.x.ai",
}
"""Where one gets a key of the routes that most people ask; `""` for one's own servers."""


def variables_of(route: str) -> tuple[str, ...]:
    """Return where the key of a route is looked for, in order."""
    usual = f"{route.upper().replace('-', '_')}_API_KEY"
    return tuple(_KEY_VARIABLES.get(route, usual).split())
