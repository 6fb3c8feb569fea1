"""A microkernel framework for AI agents with typed signatures."""

__all__: list[str] = []
