"""From a request as it was sent to the messages the engine understands."""
