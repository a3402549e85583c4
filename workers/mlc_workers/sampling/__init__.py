"""From a row of logits to a token, in NumPy. Knows no device, no schedule and no text."""
