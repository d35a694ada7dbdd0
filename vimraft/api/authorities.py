"""Which certificates a caller of the API accepts.

May live here: the TLS contexts of HTTP clients. Reading the authorities that this host trusts takes some
50 ms of processor time, and httpx does it for each client that is made: every command of the CLI would begin
with it, and a manager that passes a call on would stand still for so long.

Keeps: no certificate is ever accepted unverified. Where no URL speaks of TLS, no authority is known at all.
"""

import functools
import ssl
from collections.abc import Iterable

import httpx


def accepted(urls: Iterable[str]) -> ssl.SSLContext:
    """What a client of these URLs verifies with."""
    return _hosts() if any(url.lower().startswith("https:") for url in urls) else _none()


@functools.cache
def _hosts() -> ssl.SSLContext:
    return httpx.create_ssl_context()


@functools.cache
def _none() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
