"""Answers that follow a grammar: compiled off the loop, a guide per choice, masks for the sampler.

Only `compiler` knows the library that does it, and it is loaded with the first such request.
"""
