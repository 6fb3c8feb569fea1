"""What a plugin author needs to test a plugin."""

__all__: list[str] = []
