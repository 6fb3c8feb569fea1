"""Two models that need no network: one for tests, and one that finds sentences."""

from kaizen_offline._mock import MockProvider, MockReply, Scripted
from kaizen_offline._offline import OfflineProvider
from kaizen_offline._plugin import OfflinePlugin, OfflineSettings

__all__ = [
    "MockProvider",
    "MockReply",
    "OfflinePlugin",
    "OfflineProvider",
    "OfflineSettings",
    "Scripted",
]
