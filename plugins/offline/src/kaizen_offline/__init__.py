"""Model providers that answer without a network, for tests and first steps."""

__all__: list[str] = []
