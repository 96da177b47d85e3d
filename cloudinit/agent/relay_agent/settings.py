"""What this relay is to do: the baked `agent.json`, with what `boot.json` says laid over it."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, Tuple, Union
from urllib.parse import urlsplit

from relay_agent.networks import is_too_wide, parse
from relay_agent.places import Places
from relay_agent.trouble import Trouble

SCHEMA = 1
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?")
_SECRET = re.compile(r"[A-Za-z0-9/_+=.@:!-]{1,2048}")
_REGION = re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+")
_UNIT = re.compile(r"[A-Za-z0-9@._\\-]+\.service")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# `fleet_size`: count this instance's Auto Scaling group (relay_agent/fleet.py).
AUTO_SCALING = "auto_scaling"
MOST_RELAYS = 10000
MECHANISMS = ("plain", "login", "xoauth2")
DERIVATIONS = ("ses_smtp_v4",)
GRANTS = ("refresh_token", "client_credentials")
_TOKEN_URL = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?/[\w./{}-]*|http://127\.0\.0\.1:\d+/[\w./{}-]*")


@dataclass(frozen=True)
class Shape:
    """One form that a secret may have; `username`, `password` and `token_url` are templates over its fields.

    With a `grant` of OAuth 2.0 the password is a refresh token or a client secret, and what the provider is
    shown is an access token from `token_url`.
    """

    name: str
    fields: tuple[str, ...]
    username: str
    password: str
    derive: str | None = None
    token_url: str | None = None
    grant: str | None = None
    scope: str | None = None


@dataclass(frozen=True)
class Upstream:
    """One account at a provider's SMTP service; `region` is the one that its password is derived for.

    `account` is set for a second account at one host: the name that only its own transport looks up.
    """

    name: str
    host: str
    port: int
    tls: str
    shapes: tuple[Shape, ...]
    mechanisms: tuple[str, ...]
    secret: str | None
    region: str | None
    account: str | None = None

    @property
    def key(self) -> str:
        """Where the password map has its credential."""
        return self.account or self.host


@dataclass(frozen=True)
class Settings:
    """Everything the agent is told; `overrides` is what `boot.json` changes in Postfix."""

    preset: str
    region: str | None
    upstreams: tuple[Upstream, ...]
    hostname: str | None
    networks: tuple[str, ...]
    health_port: int = 8025
    poll_seconds: int = 60
    boot_deadline_seconds: int = 300
    postfix_unit: str = "postfix.service"
    endpoint: str | None = None
    imds_endpoint: str | None = None
    ca_pem: str | None = None
    boot_hostname: str | None = None
    boot_networks: tuple[str, ...] = ()
    fleet_size: Union[int, str, None] = None
    baked_port: int = 587
    unknown: tuple[str, ...] = ()


class _Reader:
    """Takes typed values out of one JSON object and collects every mistake."""

    def __init__(self, values: Mapping[str, Any], at: str, problems: list[str]) -> None:
        self._values = values
        self._at = at
        self.problems = problems
        self.seen = {"schema"}

    def name(self, key: str) -> str:
        return self._at + key

    def wrong(self, key: str, expected: str) -> None:
        found = self._values.get(key)
        # The type is enough to find the mistake; a value could be a secret put in the wrong place.
        shown = "nothing" if found is None else type(found).__name__
        if isinstance(found, (int, bool)):
            shown = json.dumps(found)
        self.problems.append(f"`{self.name(key)}` is {shown}, expected {expected}")

    def text(self, key: str, pattern: re.Pattern[str], expected: str, *, need: bool) -> str | None:
        self.seen.add(key)
        value = self._values.get(key)
        if value is None and not need:
            return None
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self.wrong(key, expected)
        return None

    def number(self, key: str, default: int | None, low: int, high: int) -> int:
        self.seen.add(key)
        value = self._values.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.wrong(key, f"a whole number from {low} to {high}")
        return low

    def fleet_size(self) -> Union[int, str, None]:
        value = self._values.get("fleet_size")
        if value is None or value == AUTO_SCALING:
            self.seen.add("fleet_size")
            return value
        return self.number("fleet_size", None, 1, MOST_RELAYS)

    def texts(self, key: str, allowed: tuple[str, ...] | None = None) -> tuple[str, ...]:
        self.seen.add(key)
        value = self._values.get(key)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            unknown = [item for item in value if allowed is not None and item not in allowed]
            if not unknown:
                return tuple(value)
        self.wrong(key, "a list of " + (", ".join(allowed) if allowed else "text"))
        return ()

    def networks(self, key: str) -> tuple[str, ...]:
        self.seen.add(key)
        value = self._values.get(key, [])
        found = []
        for item in value if isinstance(value, list) else [None]:
            try:
                found.append(str(parse(str(item))))
            except (TypeError, ValueError):
                self.wrong(key, "a list of networks such as `10.0.0.0/8`")
                return ()
        return tuple(found)

    def objects(self, key: str) -> list[dict[str, Any]]:
        self.seen.add(key)
        value = self._values.get(key)
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return value
        self.wrong(key, "a list with at least one object")
        return []

    def unknown(self) -> tuple[str, ...]:
        return tuple(self.name(key) for key in self._values if key not in self.seen)


def _parse(path: Path, where: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # The message of a JSON error has the place but not the text, so it shows no value.
        raise Trouble("config-invalid", f"`{where}` is not JSON: {error}", lasting=True) from None
    if not isinstance(value, dict):
        raise Trouble("config-invalid", f"`{where}` is not a JSON object", lasting=True)
    if value.get("schema") != SCHEMA:
        raise Trouble(
            "config-invalid",
            f"`{where}` has schema {value.get('schema')}; this agent reads schema {SCHEMA}",
            hint="Use the builder that baked the image, or bake again",
            lasting=True,
        )
    return value


def _shape(values: dict[str, Any], at: str, problems: list[str]) -> Shape:
    reader = _Reader(values, at, problems)
    anything = re.compile(r"[^\r\n]+")
    derive = values.get("derive")
    if derive is not None and derive not in DERIVATIONS:
        reader.wrong("derive", "null or " + ", ".join(DERIVATIONS))
    return Shape(
        name=reader.text("name", _NAME, "a short name", need=True) or "",
        fields=reader.texts("fields"),
        username=reader.text("username", anything, "a template such as `{username}`", need=True) or "",
        password=reader.text("password", anything, "a template such as `{password}`", need=True) or "",
        derive=derive if isinstance(derive, str) else None,
        **_oauth(reader, values),
    )


def _oauth(reader: _Reader, values: dict[str, Any]) -> dict[str, str | None]:
    if values.get("mechanism", "password") == "password":
        return {}
    if values.get("grant") not in GRANTS:
        reader.wrong("grant", " or ".join(GRANTS))
    return {
        "grant": str(values.get("grant")),
        "token_url": reader.text("token_url", _TOKEN_URL, "an `https://` address", need=True),
        "scope": reader.text("scope", re.compile(r"[ -~]+"), "OAuth scopes", need=False),
    }


def _upstream(values: dict[str, Any], at: str, problems: list[str]) -> Upstream:
    reader = _Reader(values, at, problems)
    tls = values.get("tls")
    if tls not in ("starttls", "implicit"):
        reader.wrong("tls", "`starttls` or `implicit`")
    shapes = [
        _shape(shape, f"{at}shapes[{number}].", problems)
        for number, shape in enumerate(reader.objects("shapes"))
    ]
    return Upstream(
        name=reader.text("name", _NAME, "a short name", need=True) or "",
        host=reader.text("host", _HOST, "a host name", need=True) or "",
        port=reader.number("port", None, 1, 65535),
        tls=str(tls),
        shapes=tuple(shapes),
        mechanisms=reader.texts("mechanisms", MECHANISMS),
        secret=reader.text("secret", _SECRET, "a secret's name or ARN", need=False),
        # The provider's own, such as `us` and `eu`; AWS is asked in the `region` of the whole.
        region=reader.text("region", _NAME, "a region of the provider", need=False),
        account=reader.text("account", _NAME, "a short name", need=False),
    )


def _baked(values: dict[str, Any]) -> Settings:
    problems: list[str] = []
    reader = _Reader(values, "", problems)
    upstreams = [
        _upstream(upstream, f"upstreams[{number}].", problems)
        for number, upstream in enumerate(reader.objects("upstreams"))
    ]
    for field, values_of in (
        ("name", [upstream.name for upstream in upstreams]),
        ("host", [upstream.key for upstream in upstreams]),
    ):
        if len(set(values_of)) != len(values_of):
            problems.append(f"two `upstreams` have the same `{field}`")
    settings = Settings(
        preset=reader.text("preset", _NAME, "a preset's name", need=True) or "",
        region=reader.text("region", _REGION, "a region such as `us-east-1`", need=False),
        upstreams=tuple(upstreams),
        hostname=reader.text("hostname", _HOST, "a host name", need=False),
        networks=reader.networks("networks"),
        health_port=reader.number("health_port", 8025, 1, 65535),
        poll_seconds=reader.number("poll_seconds", 60, 1, 86400),
        boot_deadline_seconds=reader.number("boot_deadline_seconds", 300, 1, 86400),
        postfix_unit=reader.text("postfix_unit", _UNIT, "a unit's name", need=False) or "postfix.service",
        baked_port=upstreams[0].port if upstreams else 587,
        fleet_size=reader.fleet_size(),
    )
    _refuse("/etc/relay/agent.json", problems)
    return settings


def _endpoint(reader: _Reader, values: Mapping[str, Any], key: str) -> str | None:
    reader.seen.add(key)
    value = values.get(key)
    if value is None:
        return None
    try:
        parts = urlsplit(value) if isinstance(value, str) else urlsplit("")
    except ValueError:
        parts = urlsplit("")
    plain = parts.username is None and not parts.query
    safe = parts.scheme == "https" or (parts.scheme == "http" and _is_private(parts.hostname or ""))
    if plain and safe and parts.hostname:
        return str(value)
    # A secret must not cross a network that is not ours in clear text.
    reader.wrong(key, "an `https://` address, or `http://` and a private IP address")
    return None


def _is_private(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_private or address.is_link_local or address.is_loopback


def _ca(reader: _Reader, values: Mapping[str, Any]) -> str | None:
    reader.seen.add("ca_pem")
    value = values.get("ca_pem")
    if value is None:
        return None
    if isinstance(value, str) and "BEGIN CERTIFICATE" in value and "PRIVATE KEY" not in value:
        return value
    reader.wrong("ca_pem", "certificates in PEM form and no private key")
    return None


def _no_open_relay(reader: _Reader, values: Mapping[str, Any]) -> Tuple[str, ...]:
    """Return the networks of `boot.json`; none that lets strangers relay, unless that was asked for."""
    networks = reader.networks("networks")
    reader.seen.add("allow_any_network")
    if values.get("allow_any_network") is not True:
        for network in map(parse, networks):
            if is_too_wide(network):
                reader.problems.append(
                    f"`networks` has {network}, which would let strangers relay (without `allow_any_network`)"
                )
    return networks


def _overlay(settings: Settings, values: dict[str, Any]) -> Settings:
    problems: list[str] = []
    reader = _Reader(values, "", problems)
    upstream = values.get("upstream", {})
    reader.seen.add("upstream")
    if not isinstance(upstream, dict):
        reader.wrong("upstream", "an object")
        upstream = {}
    near = _Reader(upstream, "upstream.", problems)
    first = settings.upstreams[0]
    first = replace(
        first,
        secret=reader.text("secret", _SECRET, "a secret's name or ARN", need=False) or first.secret,
        port=near.number("port", first.port, 1, 65535),
    )
    hostname = reader.text("hostname", _HOST, "a host name", need=False)
    networks = _no_open_relay(reader, values)
    merged = replace(
        settings,
        region=reader.text("region", _REGION, "a region such as `us-east-1`", need=False) or settings.region,
        upstreams=(first, *settings.upstreams[1:]),
        hostname=hostname or settings.hostname,
        networks=networks or settings.networks,
        boot_hostname=hostname,
        boot_networks=networks,
        endpoint=_endpoint(reader, values, "endpoint"),
        imds_endpoint=_endpoint(reader, values, "imds_endpoint"),
        ca_pem=_ca(near, upstream),
        fleet_size=reader.fleet_size() or settings.fleet_size,
        unknown=reader.unknown() + near.unknown(),
    )
    _refuse("/etc/relay/boot.json", problems)
    return merged


def _refuse(where: str, problems: list[str]) -> None:
    if problems:
        raise Trouble(
            "config-invalid",
            f"`{where}`: {'; '.join(problems)}",
            hint="Correct the launch user data (or the file, the agent reads it again by itself)",
            lasting=True,
        )


def load(places: Places) -> Settings:
    """Read both files; a missing `boot.json` changes nothing.

    Errors: Trouble `config-missing`, `config-invalid` (with every mistake at once).
    """
    if not places.agent_json.exists():
        raise Trouble(
            "config-missing",
            "`/etc/relay/agent.json` is missing: this image was not baked as a relay",
            lasting=True,
        )
    settings = _baked(_parse(places.agent_json, "/etc/relay/agent.json"))
    if places.boot_json.exists():
        settings = _overlay(settings, _parse(places.boot_json, "/etc/relay/boot.json"))
    return settings


def require_secrets(settings: Settings) -> None:
    """Check that each upstream has a secret to fetch. Errors: Trouble `secret-unnamed`."""
    nameless = [upstream.name for upstream in settings.upstreams if not upstream.secret]
    if nameless:
        raise Trouble(
            "secret-unnamed",
            f"No secret is named for upstream `{nameless[0]}`: neither in `/etc/relay/agent.json` "
            "nor in `/etc/relay/boot.json`",
            hint="Launch with a secret's name: `builder launch IMAGE --secret NAME`",
            lasting=True,
        )
