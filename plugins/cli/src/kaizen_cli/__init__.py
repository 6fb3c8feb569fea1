"""The `kaizen` command: run agents, and see which plugins are installed."""

__all__: list[str] = []
