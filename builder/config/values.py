"""The kinds of values in `relay.yaml`: host names, networks, addresses, secret names, headers.

Every refusal reads `expected …`, so that it can stand after what was found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which JSON and YAML can spell and no encoding carries."""
AWS_REGION = r"[a-z]{2,4}(-[a-z]+)+-[0-9]"

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL})(\.{_LABEL})+")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?P<domain>[^@]+)")
_SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")
_SECRET_ARN = re.compile(
    rf"arn:aws[a-z-]*:secretsmanager:{AWS_REGION}:[0-9]{{12}}:secret:[A-Za-z0-9/_+=.@-]{{1,512}}"
)
_URL_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_HEADER_NAME = re.compile(r"[!-9;-~]{1,64}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?")
_OTHER_MAIL_SERVERS = re.compile(
    r"(exim4|sendmail|opensmtpd|nullmailer|msmtp-mta|ssmtp|esmtp-run|dma|courier-mta|citadel)\b.*"
)

# RFC 1918, 6598, 4193, 3927, 4291: nobody on the internet has such an address.
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")
    + ("127.0.0.0/8", "fc00::/7", "fe80::/10", "::1/128")
)
# IPv4 in the form of IPv6 (RFC 4291, 2.5.5.2); many at once, the broadcast, no address at all.
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NOBODY = tuple(
    ipaddress.ip_network(text)
    for text in ("224.0.0.0/4", "ff00::/8", "255.255.255.255/32", "0.0.0.0/32", "::/128")
)
# Relays that share an account: a number, or count the Auto Scaling group (as in relay_agent/settings.py).
AUTO_SCALING = "auto_scaling"
MOST_RELAYS = 10000
# A public network wider than what one organisation usually holds is taken for a mistake.
WIDEST_PUBLIC_PREFIX = {4: 16, 6: 32}


def is_host_name(value: str) -> bool:
    """Whether it is a fully qualified host name in small letters, and not an IP address."""
    return bool(_HOST_NAME.fullmatch(value)) and not value.rsplit(".", 1)[-1].isdigit()


def is_too_wide(network: str) -> bool:
    """Whether a network lets in more than private addresses and more than a /16 (IPv6: /32)."""
    parsed = ipaddress.ip_network(network)
    return not within(parsed, _PRIVATE) and parsed.prefixlen < WIDEST_PUBLIC_PREFIX[parsed.version]


def within(network: IpNetwork, others: Iterable[IpNetwork]) -> bool:
    """Whether a network lies inside one of the others."""
    # subnet_of() refuses to compare the two versions of IP.
    return any(
        network.version == other.version
        and network.prefixlen >= other.prefixlen
        and network.network_address in other
        for other in others
    )


def merged(networks: Iterable[IpNetwork]) -> list[IpNetwork]:
    """Return the fewest networks that hold the same addresses."""
    every = list(networks)
    four = [network for network in every if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in every if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)]


def _host_name(value: str) -> str:
    if not is_host_name(value.lower()):
        raise ValueError("expected a fully qualified host name such as `relay.example.com`")
    return value.lower()


def _domain(value: str) -> str:
    if not is_host_name(value.lower()):
        raise ValueError("expected a domain such as `example.com`")
    return value.lower()


def _network(value: str) -> str:
    if "%" in value:
        zone = value.partition("%")[2].partition("/")[0]
        raise ValueError(f"expected a network without the name of an interface (`%{zone[:20]}`)")
    try:
        parsed = ipaddress.ip_network(value)
    except ValueError:
        pass
    else:
        return str(_with_clients(parsed))
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("expected a network such as `10.0.0.0/8` or `fd00::/8`") from None
    address = value.partition("/")[0]
    raise ValueError(f"expected `{meant}` for the whole network, or `{address}` for that address alone")


def _with_clients(network: IpNetwork) -> IpNetwork:
    """Refuse a network in which no client can be."""
    if within(network, [_MAPPED]):
        # Such a client is an IPv4 one to Postfix and to nftables.
        four = ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        raise ValueError(f"expected the IPv4 network itself, `{four}`")
    if within(network, _NOBODY):
        everybody = f"{type(network.network_address)(0)}/0"
        note = f"; everybody is `{everybody}`" if int(network.network_address) == 0 else ""
        raise ValueError(f"expected addresses that a client can have{note}")
    return network


def _address(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if not found or not is_host_name(found["domain"].lower()) or ".." in value or value.startswith("."):
        raise ValueError("expected a mail address such as `postmaster@example.com`")
    return value


def _secret_name(value: str) -> str:
    # https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_CreateSecret.html, Name.
    if not (_SECRET_ARN if value.startswith("arn:") else _SECRET_NAME).fullmatch(value):
        raise ValueError(
            "expected the name of a secret in Secrets Manager such as `relay/ses` "
            "(letters, digits and /_+=.@-, 512 at most), or its ARN"
        )
    return value


def _endpoint(value: str) -> str:
    # As the agent does (relay_agent/settings.py): a secret must not cross a strange network in clear text.
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018  (raises where it is none)
    except ValueError:
        parts = urlsplit("")
    host = parts.hostname or ""
    if parts.username is not None or parts.query or parts.fragment:
        # Not shown: it may be a password.
        raise ValueError("an address must hold no user name, password or query")
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and _is_private(host))
    if not is_safe or not _URL_HOST.fullmatch(host) or re.search(r"\s", value):
        raise ValueError("expected an `https://` address, or `http://` and a private IP address")
    return value


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_private or address.is_link_local or address.is_loopback


def _header_name(value: str) -> str:
    # RFC 5322, 2.2: printable characters without the colon. 64 is what our header tables are tried with.
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError("expected the name of a header without the colon, 64 characters at most")
    return value


def _one_line(value: str) -> str:
    # A line break in a Postfix table or in main.cf would begin another entry.
    if not re.fullmatch(r"[ -~]{1,998}", value):
        raise ValueError("expected one line of ASCII text, 998 characters at most")
    return value


def _package(value: str) -> str:
    if _OTHER_MAIL_SERVERS.fullmatch(value):
        raise ValueError("expected a package that does not replace Postfix")
    if not _PACKAGE.fullmatch(value):
        raise ValueError("expected the name of a Debian package, such as `tcpdump`")
    return value


def _fleet_size(value: Any) -> Any:
    text = str(value)
    if text == AUTO_SCALING:
        return text
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_RELAYS:
        raise ValueError(f"expected a whole number from 1 to {MOST_RELAYS}, or `{AUTO_SCALING}`")
    return int(text)


def _not_bool(value: Any) -> Any:
    # YAML 1.1 reads `yes` as true, and pydantic would go on to read true as 1.
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


HostName = Annotated[str, AfterValidator(_host_name)]
Domain = Annotated[str, AfterValidator(_domain)]
Network = Annotated[str, AfterValidator(_network)]
MailAddress = Annotated[str, AfterValidator(_address)]
SecretName = Annotated[str, AfterValidator(_secret_name)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
OneLine = Annotated[str, AfterValidator(_one_line)]
PackageName = Annotated[str, AfterValidator(_package)]
FleetSize = Annotated[int | Literal["auto_scaling"], BeforeValidator(_fleet_size)]
Whole = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool)]
