"""Checks of a fresh instance: it relays, it keeps the credential where it belongs, it is no open relay."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterable

from builder.config import RelayConfig
from builder.console import format_seconds
from builder.launch import Address
from builder.render.routing import SASL_MAP
from builder.standin.stack import QEMU_HOST
from builder.verify.check import check
from builder.verify.probe import choose_addresses, is_in, sender_at_provider
from builder.verify.relay import CheckFailed, Relay, greeting, require

_READY_SECONDS = 600
# Where a program that takes mail or fetches a secret could have left it.
_SEARCHED = "/etc /home /opt /root /srv /tmp /usr/lib/relay /usr/local /var"
# Where a credential belongs: each file with its mode and owner. Users of the submission port are for smtpd to
# read, signing keys for the signer.
_PLACES = {
    SASL_MAP: "600 root:root",
    "/run/relay/submission.pem": "600 root:root",
    "/run/relay-users/sasldb2": "640 root:postfix",
    "/run/relay-dkim/keys/*.pem": "600 opendkim:opendkim",
}
_ELSEWHERE = " ".join(f"! -path '{path}'" for path in _PLACES)


@check("ready")
def ready(relay: Relay) -> str:
    """Prove that a fresh instance fetches its credentials, proves them and opens port 25 by itself."""
    seconds = relay.guest.wait_ready(timeout_seconds=_READY_SECONDS)
    # One provider that works is enough to be ready; here all of them do.
    relay.wait_proven()
    banner = relay.wait_greeting(timeout_seconds=10)
    require(banner.startswith("220 "), f"port 25 says `{banner}`")
    asked = [call for call in relay.stand_ins.secrets.calls if call.operation == "GetSecretValue"]
    require(asked, "it is ready without having asked Secrets Manager")
    proofs = [attempt for attempt in relay.provider.auths if attempt.accepted]
    require(proofs, "it is ready without a login at the provider")
    how = f"{len(asked)} GetSecretValue, {len(proofs)} login"
    return f"ready after {format_seconds(seconds)}; {how}; {banner}"


@check("relayed")
def relayed(relay: Relay) -> str:
    """Prove that a message arrives whole, over verified TLS and with AUTH."""
    message = relay.wait_delivered(relay.send())[0]
    expected = relay.logins.usernames
    require(message.tls_version, "it came without TLS")
    require(
        message.user in expected, f"it came with the login `{message.user}`, expected {_either(expected)}"
    )
    sender, recipient = relay.addresses
    require(
        message.sender == sender_at_provider(relay.config, sender) and message.recipients == (recipient,),
        f"its envelope is {message.sender} → {', '.join(message.recipients)}",
    )
    require(b"\r\n.\r\n..two\r\n" in message.body, "its body was changed on the way")
    login = [each for each in relay.provider.auths if each.session == message.session]
    others = [each for each in login if each.password_is not in ("current", "")]
    require(not others, "it came with another password")
    require(not relay.provider.leaks, "a password was sent in the clear")
    mechanism = login[-1].mechanism if login else "of a session before"
    return f"{message.tls_version}, AUTH {mechanism}, {message.reply}"


def _is_signed(config: RelayConfig) -> bool:
    if config.dkim is None:
        return False
    sender = sender_at_provider(config, choose_addresses(config, QEMU_HOST)[0])
    return any(is_in(sender, [key.domain]) for key in config.dkim.keys)


@check("signed", applies=_is_signed)
def signed(relay: Relay) -> str:
    """Prove that mail of a domain with a DKIM key is signed for it, once."""
    message = relay.wait_delivered(relay.send())[0]
    found = [value for name, value in message.headers if name.lower() == "dkim-signature"]
    require(len(found) == 1, f"it has {len(found)} DKIM-Signature headers, expected one")
    tags = dict(re.findall(r"(\w+)=([^;]*)", "".join(found[0].split())))
    require(is_in(message.sender, [tags.get("d", "")]), f"it is signed for {tags.get('d')}")
    return f"{tags.get('a')} by {tags.get('s')}._domainkey.{tags['d']}; signed are {tags.get('h')}"


@check("credential-on-tmpfs")
def credential_on_tmpfs(relay: Relay) -> str:
    """Prove that the credential is in one file on tmpfs, mode 0600, and nowhere else in the guest."""
    facts = _facts(relay, _PLACES[SASL_MAP], SASL_MAP)
    for path, expected in _PLACES.items():
        if path != SASL_MAP and relay.read(f"ls {path} 2>/dev/null || true"):
            _facts(relay, expected, path)
    password = relay.logins.first.password
    require(password in relay.read(f"cat {SASL_MAP}"), f"{SASL_MAP} does not hold the current password")
    require(not relay.read("swapon --show --noheadings"), "the guest swaps, so memory can reach a disk")
    found = _search_guest(relay)
    require(not found, f"a credential is also in {found}")
    shown = [path for path in ("/readyz", "/livez", "/metrics") if _shows(relay, path)]
    require(not shown, f"a credential is shown by {', '.join(shown)}")
    return f"{SASL_MAP}: tmpfs, {facts}; not in files, journal, arguments, environments, health pages"


@check("closed-relay")
def closed_relay(relay: Relay) -> str:
    """Prove that an address outside `networks` is refused, by the firewall and by Postfix on its own."""
    outside = relay.guest.add_outside_address()
    seen = []
    wanted, found = relay.config.firewall.enabled, _has_firewall(relay)
    require(found == wanted, f"table `inet relay` is {'there' if found else 'missing'}: `firewall.enabled`?")
    if found:
        banner = greeting(outside, timeout_seconds=8)
        require(not banner, f"the firewall lets an outsider in: {banner}")
        seen.append("firewall: dropped")
        # Open the firewall alone for the outsider, so that Postfix's own answer is seen as well.
        relay.read(_FIREWALL_OPEN)
    try:
        answer = _try_to_relay(outside, relay)
    finally:
        if seen:
            relay.read(_FIREWALL_CLOSE)
    inside = _try_to_relay(relay.guest.smtp_address, relay, until="rcpt")
    require(inside.startswith("250"), f"the same recipient from inside `networks` got: {inside}")
    return "; ".join([*seen, f"Postfix: {answer}", f"inside: {inside}"])


def _try_to_relay(address: Address, relay: Relay, *, until: str = "refused") -> str:
    """Return the reply to RCPT TO; CheckFailed when an outsider gets further."""
    # With addresses that are accepted from inside: it is the client alone that must not relay.
    sender, recipient = relay.addresses
    with smtplib.SMTP(*address, local_hostname="verify.example.com", timeout=30) as client:
        client.ehlo()
        code, reply = client.mail(sender)
        if code == 250:
            code, reply = client.rcpt(recipient)
        said = f"{code} {reply.decode(errors='replace')}"
        if until == "refused" and code < 500:
            raise CheckFailed(f"an outsider's recipient got `{said}`, expected 5xx before DATA")
        return said


def _either(names: Iterable[str]) -> str:
    return " or ".join(f"`{name}`" for name in sorted(names))


def _has_firewall(relay: Relay) -> bool:
    return bool(relay.read("nft list set inet relay networks4 2>/dev/null || true"))


_OUTSIDERS = "10.0.3.0/24"
_FIREWALL_OPEN = f"nft insert rule inet relay input ip saddr {_OUTSIDERS} accept comment verify"
_FIREWALL_CLOSE = (
    "handle=$(nft -a list chain inet relay input | sed -n '/comment \"verify\"/s/.*# handle //p');"
    ' for each in $handle; do nft delete rule inet relay input handle "$each"; done'
)


def _facts(relay: Relay, expected: str, path: str) -> str:
    """Return mode and owner of a file that holds a credential; CheckFailed unless it is as it has to be."""
    kinds = set(relay.read(f"stat -f -c %T {path}").splitlines())
    require(kinds == {"tmpfs"}, f"{path} is on {', '.join(kinds)}")
    facts = set(relay.read(f"stat -c '%a %U:%G' {path}").splitlines())
    require(facts == {expected}, f"{path} is {', '.join(facts)}, expected {expected}")
    return expected


def _search_guest(relay: Relay) -> str:
    """Return where else a credential is: files, journal, arguments and environments of processes.

    The patterns go through stdin, so that the search does not find itself.
    """
    patterns = "".join(f"{value.decode()}\n" for value in relay.traces.values())
    script = (
        "patterns=$(mktemp /dev/shm/patterns.XXXXXX); cat > $patterns;"
        f" grep -rlaF -f $patterns {_SEARCHED} 2>/dev/null;"
        f" find /run -type f {_ELSEWHERE} -exec grep -laF -f $patterns {{}} + 2>/dev/null;"
        " grep -laF -f $patterns /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null;"
        " journalctl -b -o export --no-pager | grep -aqF -f $patterns && echo the journal;"
        " dmesg | grep -aqF -f $patterns && echo the kernel log;"
        " rm -f $patterns; true"
    )
    said = relay.guest.run(script, root=True, stdin=patterns, timeout_seconds=180).stdout
    return ", ".join(re.sub(r"\s+", " ", said).split())


def _shows(relay: Relay, path: str) -> bool:
    _status, text = relay.guest.health(path)
    return any(value.decode() in text for value in relay.traces.values())


CHECKS = (ready, relayed, signed, credential_on_tmpfs, closed_relay)
