"""The Responses API, told in chat requests and chat answers."""
