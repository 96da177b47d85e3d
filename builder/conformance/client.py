"""The client side of a case: sends messages and keeps what the relay answered."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Mail:
    """One message; `body_bytes` is its size, `options` go into MAIL FROM. `content` replaces all of it."""

    recipients: tuple[str, ...]
    sender: str = "app@example.com"
    body_bytes: int = 20
    options: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None

    def data(self) -> bytes:
        """Return the whole message with CRLF line ends."""
        if self.content is not None:
            return self.content
        lines = [f"From: <{self.sender}>", "Subject: conformance", *(f"{k}: {v}" for k, v in self.headers)]
        body = ("x" * 70 + "\r\n") * (self.body_bytes // 72) + "x" * (self.body_bytes % 72)
        return ("\r\n".join(lines) + "\r\n\r\n" + body + "\r\n").encode()


@dataclass(frozen=True)
class Sent:
    """What became of one message: the last reply, and the recipients that the relay took with it."""

    mail: Mail
    reply: str
    accepted: tuple[str, ...]


@contextlib.contextmanager
def session(
    address: tuple[str, int], *, client: str | None = None, helo: str = "client.example.com"
) -> Iterator[smtplib.SMTP]:
    """Open a session after EHLO; `client` is the address that it pretends to come from (XCLIENT)."""
    smtp = smtplib.SMTP(*address, timeout=_TIMEOUT_SECONDS, local_hostname=helo)
    try:
        if client is not None:
            smtp.ehlo()
            smtp.docmd("XCLIENT", f"ADDR={client} NAME=[UNAVAILABLE]")
        smtp.ehlo()
        yield smtp
    finally:
        with contextlib.suppress(smtplib.SMTPException, OSError):
            smtp.quit()
        smtp.close()


def send(smtp: smtplib.SMTP, mail: Mail) -> Sent:
    """Send one message in an open session."""
    options = "".join(f" {option}" for option in mail.options)
    try:
        reply = _text(smtp.docmd("MAIL", f"FROM:<{mail.sender}>{options}"))
        if not reply.startswith("2"):
            return Sent(mail, reply, ())
        replies = [(name, _text(smtp.docmd("RCPT", f"TO:<{name}>"))) for name in mail.recipients]
        taken = tuple(name for name, answer in replies if answer.startswith("2"))
        if not taken:
            smtp.rset()
            return Sent(mail, replies[-1][1], ())
        reply = _text(smtp.docmd("DATA"))
        if not reply.startswith("354"):
            return Sent(mail, reply, ())
        smtp.send(_dotted(mail.data()))
        reply = _text(smtp.getreply())
    except smtplib.SMTPServerDisconnected as error:
        return Sent(mail, f"disconnected: {error}", ())
    return Sent(mail, reply, taken if reply.startswith("2") else ())


def send_all(address: tuple[str, int], mails: Sequence[Mail], *, client: str | None = None) -> list[Sent]:
    """Send messages one after the other in one session."""
    with session(address, client=client) as smtp:
        return [send(smtp, mail) for mail in mails]


def raw_dialog(address: tuple[str, int], *packets: bytes, wait_seconds: float = 2) -> str:
    """Send each packet after the relay has said something, and return all that it said."""
    said = b""
    with socket.create_connection(address, timeout=_TIMEOUT_SECONDS) as connection:
        said += connection.recv(65536)
        connection.settimeout(wait_seconds)
        for packet in packets:
            with contextlib.suppress(OSError):
                connection.sendall(packet)
                said += connection.recv(65536)
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                said += chunk
    return said.decode("utf-8", "replace")


def start_tls(smtp: smtplib.SMTP) -> None:
    """Begin TLS without checking the certificate: the relay's own is made at boot."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    smtp.starttls(context=context)
    smtp.ehlo()


def _dotted(data: bytes) -> bytes:
    return data.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def _text(reply: tuple[int, bytes]) -> str:
    return f"{reply[0]} {reply[1].decode('utf-8', 'replace')}"
