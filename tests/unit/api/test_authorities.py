"""TLS contexts of the API's callers: made once, and never one that accepts anything."""

import ssl
import time

import httpx
import pytest

from vimraft.api.authorities import accepted
from vimraft.api.client import Client


@pytest.mark.parametrize("urls", [(), ("http://a:1",), ("https://a:1",), ("http://a:1", "HTTPS://b:2")])
def test_every_certificate_is_verified(urls: tuple[str, ...]) -> None:
    context = accepted(urls)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert accepted(urls) is context


def test_the_authorities_of_the_host_are_known_where_a_url_speaks_of_tls() -> None:
    assert accepted(("http://a:1", "https://b:2")).get_ca_certs()
    assert not accepted(("http://a:1",)).get_ca_certs()


def test_a_client_takes_no_time_to_make() -> None:
    """It is made for every command."""
    begun = time.process_time()
    httpx.create_ssl_context()
    once = time.process_time() - begun
    begun = time.process_time()
    for _ in range(10):
        Client(("http://127.0.0.1:1",), "token").close()
    assert time.process_time() - begun < 5 * once
