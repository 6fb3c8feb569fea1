"""The fixtures that pytest finds wherever the kernel is installed."""
