"""Bytes between two processes: anonymous shared memory, rings, wake-ups, and the start of the
engine.

Knows nothing of tensors, HTTP or scheduling; what the bytes mean is `mlc_llm.protocol`.
"""
