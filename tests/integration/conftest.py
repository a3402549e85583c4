"""What every integration test may ask for."""

from support.clients import start

__all__ = ["start"]
