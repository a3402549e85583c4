"""Fields of OpenAI's hosted service, and of other servers, that mean nothing on this one.

They are read so that the description of the API is complete, whatever their type; what is in them
changes nothing. Fields that would change the answer are not here: they are obeyed or refused.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class ServiceFields(Struct, frozen=True, kw_only=True):
    """Accepted and without effect."""

    store: Any = None
    """Nothing of a chat or a completion is ever stored."""
    metadata: Any = None
    service_tier: Any = None
    moderation: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    """Beginnings of prompts are found in the cache by their tokens."""
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    """A hint for speed."""
    verbosity: Any = None
    priority: Any = None
    """Requests are taken in the order in which they come."""
    spaces_between_special_tokens: Any = None
