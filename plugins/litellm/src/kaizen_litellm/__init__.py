"""Every model that litellm reaches, for Kaizen agents."""

from kaizen_litellm._plugin import LitellmPlugin
from kaizen_litellm._settings import LitellmSettings, PriceSettings, ProviderSettings

__all__ = ["LitellmPlugin", "LitellmSettings", "PriceSettings", "ProviderSettings"]
