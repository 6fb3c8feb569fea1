"""OpenAI-compatible and Anthropic models for Kaizen agents, small and fast."""

from kaizen_direct._plugin import DirectPlugin
from kaizen_direct._settings import DirectSettings, EndpointSettings, PriceSettings

__all__ = ["DirectPlugin", "DirectSettings", "EndpointSettings", "PriceSettings"]
