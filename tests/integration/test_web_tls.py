"""The server over TLS, with certificates made for the test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import requests

from mlc_api.tls import TlsSettings, check_tls
from mlc_llm.errors import BadConfig
from support.web import WebServer


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate that vouches for itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
            "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return str(cert), str(key)


def test_clients_that_know_the_certificate_are_served(pem: tuple[str, str]) -> None:
    cert, key = pem
    tls = TlsSettings(certfile=cert, keyfile=key)
    check_tls(tls)
    with WebServer(tls=tls) as web:
        url = f"https://127.0.0.1:{web.port}/v1/models"
        assert requests.get(url, verify=cert, timeout=10).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=10)
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(url.replace("https", "http"), timeout=10)


def test_clients_may_have_to_show_a_certificate(pem: tuple[str, str]) -> None:
    cert, key = pem
    tls = TlsSettings(certfile=cert, keyfile=key, ca_certs=cert)
    check_tls(tls)
    with WebServer(tls=tls) as web:
        url = f"https://127.0.0.1:{web.port}/v1/models"
        assert requests.get(url, verify=cert, cert=pem, timeout=10).status_code == 200
        with pytest.raises(requests.exceptions.RequestException):
            requests.get(url, verify=cert, timeout=10)


def test_files_that_cannot_be_used_are_named(pem: tuple[str, str], tmp_path: Path) -> None:
    cert, key = pem
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for tls, word in [
        (TlsSettings(certfile="nowhere.pem"), "nowhere.pem"),
        (TlsSettings(certfile=cert, keyfile=str(empty)), "empty.pem"),
        (TlsSettings(certfile=cert), "cert.pem"),
        (TlsSettings(certfile=cert, keyfile=key, ca_certs=str(empty)), "--ssl-ca-certs"),
    ]:
        with pytest.raises(BadConfig, match=word):
            check_tls(tls)
