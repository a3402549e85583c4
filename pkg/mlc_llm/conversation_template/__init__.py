"""From messages to the prompt a model was trained on. Knows no tokenizer and no request limits."""
