"""What a plugin author needs to test a plugin.

Fixtures, found by pytest wherever the kernel is installed: `model`, a `ScriptedModel`; and
`kernel`, a running kernel without installed plugins, on which `model` is the default
provider. `kaizen.testing.conformance` has a test class for each port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaizen._lazy import lazy_names as _lazy_names

if TYPE_CHECKING:
    from kaizen.testing._channel import Said, ScriptedChannel
    from kaizen.testing._model import Call, Line, ScriptedModel
    from kaizen.testing._plugins import ModelPlugin, RecordingPlugin
    from kaizen.testing._store import MemoryCheckpointStore

__all__ = [
    "Call",
    "Line",
    "MemoryCheckpointStore",
    "ModelPlugin",
    "RecordingPlugin",
    "Said",
    "ScriptedChannel",
    "ScriptedModel",
]

__getattr__ = _lazy_names(
    __name__,
    {
        "_channel": ("Said", "ScriptedChannel"),
        "_model": ("Call", "Line", "ScriptedModel"),
        "_plugins": ("ModelPlugin", "RecordingPlugin"),
        "_store": ("MemoryCheckpointStore",),
    },
)
