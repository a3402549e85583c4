"""Between text and token ids, both ways. Knows no model, no request and no network."""
