"""The half of the server that needs the web framework; loaded while the engine is starting."""

from __future__ import annotations

import sys
from pathlib import Path

from mlc_api.app import make_app
from mlc_api.engine import ServedEngine
from mlc_api.server import Server, make_server
from mlc_api.settings import WebSettings
from mlc_api.state import Served
from mlc_api.text import TextSide
from mlc_api.text_tools import TextTools
from mlc_llm.serve.request.prepare import ServedModel

MAX_DIGITS = 640
"""Of an integer in a request; reading more takes time that grows with their square."""
LAST_RESORT_SECONDS = 3
"""After the graceful time the engine's streams end; what runs this much later is cancelled."""


def load_model(settings: WebSettings, folder: Path) -> ServedModel:
    """What turns requests into tokens. Raises `BadModel`, `BadConfig` for unknown parsers."""
    return ServedModel.load(folder, settings.model_id, settings.parsers)


def make_web(settings: WebSettings, model: ServedModel, engine: ServedEngine) -> Server:
    """The HTTP server over this model and engine, ready to `serve`."""
    sys.set_int_max_str_digits(MAX_DIGITS)
    text = TextSide(model, engine, with_extra=settings.enable_debug)
    app = make_app(Served(settings, engine, text, TextTools(model, engine)))
    last_resort = settings.graceful_seconds + LAST_RESORT_SECONDS
    return make_server(app, last_resort, access_log=settings.access_log, tls=settings.tls)
