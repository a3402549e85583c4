"""From what the engine says to what OpenAI clients read: chunks, answers, log-probabilities."""
