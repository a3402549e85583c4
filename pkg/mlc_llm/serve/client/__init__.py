"""The asyncio client of the engine process: its lives, its requests, their streams."""
