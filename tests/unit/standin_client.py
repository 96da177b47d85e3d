"""A plain SMTP client of the provider stand-in, for its tests: smtplib with the few steps they all take."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from builder.standin.provider import Provider

USER, PASSWORD = "AKIAEXAMPLE", "right horse"
SENDER, RECIPIENT = "app@example.com", "someone@example.net"
CONTENT = b"From: app@example.com\r\nMessage-ID: <1@example.com>\r\nSubject: hello\r\n\r\nbody\r\n.dot\r\n"
TIMEOUT_SECONDS = 10


def new_provider(**options: object) -> Provider:
    """A provider that calls itself `localhost`, so that smtplib can check its name."""
    defaults: dict[str, object] = {"users": {USER: PASSWORD}, "host_names": ("localhost",)}
    return Provider(**{**defaults, **options})  # type: ignore[arg-type]


def trusting(provider: Provider) -> ssl.SSLContext:
    """A TLS context that trusts this provider's authority and nobody else."""
    return ssl.create_default_context(cadata=provider.ca_pem)


@contextmanager
def connected(provider: Provider) -> Iterator[smtplib.SMTP]:
    """A connection without TLS; closed without QUIT."""
    client = smtplib.SMTP("localhost", provider.port, timeout=TIMEOUT_SECONDS)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def encrypted(provider: Provider) -> Iterator[smtplib.SMTP]:
    """A connection after STARTTLS and the second EHLO."""
    with connected(provider) as client:
        client.starttls(context=trusting(provider))
        client.ehlo()
        yield client


@contextmanager
def logged_in(provider: Provider) -> Iterator[smtplib.SMTP]:
    """A connection after STARTTLS and AUTH."""
    with encrypted(provider) as client:
        client.login(USER, PASSWORD)
        yield client


def send(client: smtplib.SMTP, recipient: str = RECIPIENT, *, content: bytes = CONTENT) -> int:
    """Send one message; return the code of the last reply, whichever command it was for."""
    code, _ = client.mail(SENDER)
    if code == 250:
        code, _ = client.rcpt(recipient)
    if code in (250, 251):
        code, _ = client.data(content)
    if code not in (250, 421):
        client.rset()
    return code
