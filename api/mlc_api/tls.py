"""TLS of this server: files of the command line, read once before anything starts."""

from __future__ import annotations

import ssl
from typing import Any

from msgspec import Struct

from mlc_llm.errors import BadConfig


class TlsSettings(Struct, frozen=True, kw_only=True):
    """Names of PEM files."""

    certfile: str
    """The server's certificate, and those between it and a root."""
    keyfile: str | None = None
    """Its private key; None: it is in `certfile`."""
    ca_certs: str | None = None
    """Roots that must have signed a client's certificate; None: clients need none."""


def check_tls(tls: TlsSettings) -> None:
    """Raises BadConfig, in one sentence, for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # a key with a passphrase would be asked for on the terminal
        context.load_cert_chain(tls.certfile, tls.keyfile, password=lambda: "")
    except (OSError, ValueError) as error:  # SSLError is an OSError
        where = tls.certfile if tls.keyfile is None else f"{tls.certfile} and {tls.keyfile}"
        raise BadConfig(f"--ssl-certfile: {where} cannot be used: {_reason(error)}") from error
    if tls.ca_certs is None:
        return
    try:
        context.load_verify_locations(tls.ca_certs)
    except (OSError, ValueError) as error:
        raise BadConfig(f"--ssl-ca-certs {tls.ca_certs}: {_reason(error)}") from error


def uvicorn_options(tls: TlsSettings | None) -> dict[str, Any]:
    """What uvicorn calls these settings."""
    if tls is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": tls.certfile, "ssl_keyfile": tls.keyfile}
    if tls.ca_certs is not None:
        options |= {"ssl_ca_certs": tls.ca_certs, "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
