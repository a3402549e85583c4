"""Structured output as the web process knows it: what was asked for, and whether it is reasonable.

Pure. What a grammar means to a tokenizer is the engine's business (`mlc_workers.guided`).
"""
