"""`relayctl send-test`: send one message through the relay and follow it to its last reply."""

from __future__ import annotations

import argparse
import re
import secrets
import smtplib
import subprocess
import threading
import time
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Iterator

from relay_agent import programs
from relay_agent.ctl.context import Context, span
from relay_agent.follow import FACILITY, read_entry
from relay_agent.maillog import Delivery, Event, Expired, Removed, parse
from relay_agent.trouble import Trouble

_EXAMPLE = "example: relayctl send-test you@example.com --from alerts@example.org"
_QUEUED = re.compile(r"queued as ([0-9A-Za-z]+)")
_ADDRESS = re.compile(r"[^\s<>@]+@[^\s<>@]+")


def add_parser(commands: Any) -> None:
    """Add the command `send-test`."""
    parser = commands.add_parser(
        "send-test", help="send one message and follow it to its last reply", epilog=_EXAMPLE
    )
    parser.add_argument("to", metavar="TO", type=_address, help="where to send it")
    parser.add_argument(
        "--from", dest="sender", type=_address, help="sender; many providers want a verified one"
    )
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="SECONDS", help="how long to follow it (60)"
    )
    parser.set_defaults(run=run)


def _address(text: str) -> str:
    if _ADDRESS.fullmatch(text):
        return text
    raise argparse.ArgumentTypeError(f"`{text}` is not a mail address")


def run(context: Context, arguments: argparse.Namespace) -> int:
    """Send and follow; 0 when the provider has taken it, 1 otherwise."""
    sender = arguments.sender or f"relay-test@{context.parameter('myorigin')}"
    started = time.monotonic()
    # Before sending, so that no line is missed.
    log = programs.start(
        ["journalctl", "--quiet", "--follow", "--all", "--output=json", "--lines=0", FACILITY]
    )
    watch = threading.Timer(arguments.timeout, log.kill)
    watch.daemon = True
    watch.start()
    try:
        queue_id = _send(context, sender, arguments.to)
        context.out.line(f"accepted from {sender} as {queue_id} after {span(time.monotonic() - started)}")
        return _follow(context, log, queue_id, started)
    finally:
        watch.cancel()
        log.kill()
        log.wait()
        if log.stdout is not None:
            log.stdout.close()


def _send(context: Context, sender: str, to: str) -> str:
    message = EmailMessage()
    message["From"], message["To"] = sender, to
    message["Subject"] = "Test message of the SMTP relay"
    message["Date"] = formatdate()
    domain = sender.rpartition("@")[2]
    message["Message-ID"] = f"<relay-test.{secrets.token_hex(8)}@{domain}>"
    message.set_content("Sent by `relayctl send-test`.\n")
    address = (context.places.smtp_host, context.places.smtp_port)
    try:
        with smtplib.SMTP(*address, local_hostname="localhost", timeout=30) as client:
            client.ehlo()
            return _submit(client, sender, to, message.as_bytes())
    except smtplib.SMTPResponseException as error:
        raise Trouble(
            "refused", f"The relay refused it: {error.smtp_code} {_text(error.smtp_error)}"
        ) from None
    except OSError as error:
        raise Trouble(
            "port-closed",
            f"Nothing answers on port {address[1]} of this relay ({error})",
            hint="`relayctl status` says why port 25 is closed",
        ) from None


def _submit(client: smtplib.SMTP, sender: str, to: str, raw: bytes) -> str:
    _expect(*client.mail(sender))
    _expect(*client.rcpt(to))
    code, reply = client.data(raw)
    _expect(code, reply)
    match = _QUEUED.search(_text(reply))
    if match is None:
        raise Trouble("refused", f"The relay's answer has no queue ID: {_text(reply)}")
    return match.group(1)


def _expect(code: int, reply: bytes) -> None:
    if code not in (250, 251):
        raise smtplib.SMTPResponseException(code, reply)


def _text(reply: bytes | str) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def _events(log: subprocess.Popen[bytes], queue_id: str) -> Iterator[Event]:
    assert log.stdout is not None  # noqa: S101 - programs.start opens it
    for line in log.stdout:
        entry = read_entry(line)
        event = parse(entry[0], entry[1]) if entry else None
        if event is not None and getattr(event, "queue_id", "") == queue_id:
            yield event


def _follow(context: Context, log: subprocess.Popen[bytes], queue_id: str, started: float) -> int:
    last = "nothing was said about it"
    for event in _events(log, queue_id):
        after = span(time.monotonic() - started)
        if isinstance(event, Delivery):
            last = f"{event.status} ({event.reason}): {event.text}"
            context.out.line(f"{after}: {event.relay}: {last}")
            if event.status == "sent":
                context.out.line(
                    "The provider has taken it; whether it is delivered is in the provider's log"
                )
                return 0
            if event.status == "discarded":
                context.out.line("An access rule of relay.yaml discards what is sent there; nobody gets it")
                return 1
            if event.status == "bounced":
                break
        elif isinstance(event, (Expired, Removed)):
            break
    else:
        context.out.line(f"It is not through after {span(time.monotonic() - started)}; last: {last}")
        context.out.line(f"It stays in the queue and is tried again: `relayctl queue show {queue_id}`")
        return 1
    context.out.line("It was not delivered; `relayctl doctor` says what to do")
    return 1
