"""Time limits for plugins that call what others wrote, and that seldom waits."""

from __future__ import annotations

from kaizen._bounded import OutOfTimeError, bounded

__all__ = ["OutOfTimeError", "bounded"]
