"""Tool calls and thoughts in a model's text: read piece by piece, and asked for by grammar."""
