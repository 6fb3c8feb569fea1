"""Built-in tools for agents: files, HTTP, the shell and web pages."""

from kaizen_tools._plugin import ToolsPlugin
from kaizen_tools._settings import BashSettings, HttpSettings, ToolsSettings

__all__ = ["BashSettings", "HttpSettings", "ToolsPlugin", "ToolsSettings"]
