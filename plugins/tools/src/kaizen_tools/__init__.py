"""Built-in tools for agents: files, HTTP, the shell and web pages."""

__all__: list[str] = []
