"""The providers that builder knows: one YAML file each in `provider_presets/`, checked against this schema.

Every value that a provider sets carries the source it was read from: `{value: 587, source: connect}` points
at an entry of the file's `sources`, which has the address and the date of the page.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from builder import assets
from builder.errors import BuilderError, ConfigError
from builder.posix_regex import as_python, posix_problem
from builder.preset_regex import rewrite_problem

T = TypeVar("T")
TlsMode = Literal["starttls", "implicit"]
ReplyMeaning = Literal["throttle", "quota", "credential", "greylist", "session_limit", "permanent"]


class Model(BaseModel):
    """Frozen, and an unknown key is a mistake rather than ignored; errors never repeat the input."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Source(Model):
    """Where a value was read, and the date of that page or copy."""

    url: str
    date: date
    note: str = ""


class Sourced(Model, Generic[T]):
    """A value with the key of its source.

    `unofficial`: the provider does not publish it, or we could not read where it does. `advice`: the
    provider recommends it but takes more. Configuration may go beyond either, not beyond the others.
    """

    value: T
    source: str
    unofficial: bool = False
    advice: bool = False
    note: str = ""


class Port(Model):
    """A port of the provider and how TLS begins there."""

    port: int = Field(ge=1, le=65535)
    tls: TlsMode
    source: str


class Mechanism(Model):
    """A SASL mechanism that we log in with; without `source` it is our own choice, and `note` says why."""

    name: Literal["plain", "login", "xoauth2"]
    source: str | None = None
    note: str = ""

    @model_validator(mode="after")
    def _has_a_reason(self) -> Mechanism:
        if self.source is None and not self.note:
            raise ValueError(f"mechanism `{self.name}` has neither `source` nor `note`")
        return self


class SecretShape(Model):
    """One JSON object that the secret may hold, and how the user name and password come from it.

    `username` and `password` are templates over the field names, e.g. `{access_key_id}`. `derive` names
    the function of the agent that turns the password field into the provider's password.
    """

    name: str
    fields: Mapping[str, str]
    """Field name → what it is, in words for a person."""
    username: str
    password: str
    derive: Literal["ses_smtp_v4"] | None = None
    mechanism: Literal["password", "xoauth2"] = "password"
    token_url: str | None = None
    """XOAUTH2 only: where an access token is fetched; a template over the field names."""
    grant: Literal["refresh_token", "client_credentials"] | None = None
    """XOAUTH2 only: the OAuth 2.0 grant; `password` is then the refresh token or the client secret."""
    scope: str | None = None
    """XOAUTH2 only: the scope asked for."""
    source: str

    @model_validator(mode="after")
    def _templates_use_fields(self) -> SecretShape:
        known = dict.fromkeys(self.fields, "")
        for template in (self.username, self.password, self.token_url or ""):
            try:
                template.format_map(known)
            except KeyError as error:
                raise ValueError(f"`{template}` uses {error}, which is not one of the fields") from None
        if (self.mechanism == "xoauth2") != bool(self.token_url and self.grant):
            raise ValueError("`token_url` and `grant` belong to mechanism `xoauth2`, and it needs both")
        return self


class Limits(Model):
    """What the provider allows; None where it publishes nothing."""

    message_bytes: Sourced[int] | None = None
    """As the provider counts them: the encoded message."""
    recipients_per_message: Sourced[int] | None = None
    connections: Sourced[int] | None = None
    """Sessions at once, for the whole account or address."""
    messages_per_connection: Sourced[int] | None = None
    """Messages in one session, after which the provider ends it or asks for a new one."""
    messages_per_second: Sourced[float] | None = None
    messages_per_day: Sourced[int] | None = None
    recipients_per_day: Sourced[int] | None = None


class Basis(Model):
    """What a choice of ours rests on: the page with the limit that it stays below, or that names none."""

    source: str
    note: str


class Delivery(Model):
    """What we choose within the provider's limits; `reason` says why, `basis` from which pages."""

    concurrency: int = Field(ge=1, le=500)
    initial_concurrency: int = Field(default=10, ge=1, le=500)
    messages_per_connection: int = Field(ge=1)
    queue_lifetime_hours: int = Field(default=120, ge=1)
    reason: str
    basis: Mapping[Literal["concurrency", "messages_per_connection", "queue_lifetime_hours"], Basis] = Field(
        default_factory=dict
    )
    """For each choice that a preset makes; `initial_concurrency` goes with `concurrency`."""


class Reply(Model):
    """A reply of the provider that needs care.

    `pattern` is a POSIX extended regular expression over the reply as Postfix sees it (smtp_reply_filter,
    postconf(5)); `rewrite` replaces it, e.g. a 4xx so that the message waits instead of bouncing.
    """

    pattern: str
    meaning: ReplyMeaning
    example: str
    """The reply as the source shows it."""
    rewrite: str | None = None
    source: str
    unofficial: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _works(self) -> Reply:
        problem = posix_problem(self.pattern)
        if problem is None and not re.search(as_python(self.pattern), self.example):
            problem = "it does not match its example"
        if problem is None and self.rewrite is not None:
            problem = rewrite_problem(self.pattern, self.rewrite, self.example)
        if problem:
            raise ValueError(f"`{self.pattern}`: {problem}")
        return self


class OtherHost(Model):
    """Names of the same service that `upstream.host` may hold in place of the preset's own."""

    pattern: str
    """Regular expression over the whole name."""
    example: str
    what: str
    source: str


class Note(Model):
    """A fact about the provider that no other key holds."""

    text: str
    source: str


class Preset(Model):
    """One provider."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    summary: str
    checked: date
    sources: Mapping[str, Source]
    hosts: Sourced[Mapping[str, str]]
    """Region → host name, `default` for a provider without regions. `{region}` in a value is filled in."""
    regions_note: str = ""
    host_is_yours: bool = False
    """The host is given in relay.yaml (preset `custom`); any port may be."""
    other_hosts: tuple[OtherHost, ...] = ()
    ports: tuple[Port, ...]
    default_port: int
    tls_required: Sourced[bool]
    mechanisms: tuple[Mechanism, ...]
    secret_shapes: tuple[SecretShape, ...]
    get_credential: str
    """How a person gets the credential, step by step."""
    limits: Limits
    delivery: Delivery
    replies: tuple[Reply, ...] = ()
    sender_must_be_account: bool = False
    """The provider rewrites or refuses a sender that is not the account's (Gmail)."""
    accepts_null_sender: Sourced[bool] | None = None
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Header name → what it does, of headers that the provider reads (X-SES-CONFIGURATION-SET)."""
    notes: tuple[Note, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Preset:
        problems = [
            *_unknown_sources(self),
            *_port_problems(self),
            *_host_problems(self),
            *_shape_problems(self),
            *_delivery_problems(self),
        ]
        if not any(reply.rewrite and reply.example.startswith("530") for reply in self.replies):
            problems.append("`replies` has no rewrite of 530; Postfix bounces on it when a login is missing")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def has_regions(self) -> bool:
        """Whether the host depends on a region."""
        return not self.host_is_yours and "default" not in self.hosts.value

    def host(self, region: str | None) -> str:
        """Return the host name for a region; ConfigError when the provider is not there."""
        hosts = self.hosts.value
        if self.host_is_yours:
            raise ConfigError(
                f"preset `{self.name}`",
                ["`upstream.host` is missing; this preset has no host of its own"],
                hint="Set `upstream.host:` to your provider's SMTP host name",
            )
        if not self.has_regions:
            return hosts["default"]
        if region is None:
            raise ConfigError(
                f"preset `{self.name}`",
                ["`region` is missing; the host depends on it"],
                hint=f"Set `region:` to one of {', '.join(hosts)}",
            )
        if region not in hosts:
            near = difflib.get_close_matches(region, hosts, n=1)
            raise ConfigError(
                f"preset `{self.name}`",
                [f"`region` is `{region}`, where {self.title} has no SMTP endpoint"],
                hint=f"Did you mean `{near[0]}`?" if near else f"Known regions: {', '.join(hosts)}",
            )
        return hosts[region].format(region=region)

    @property
    def mechanism_names(self) -> tuple[str, ...]:
        """The SASL mechanisms in the order of the file."""
        return tuple(mechanism.name for mechanism in self.mechanisms)

    def tls_mode(self, port: int) -> TlsMode:
        """Return how TLS begins on a port; KeyError for a port that the preset does not allow.

        On a port that only `custom` allows it is STARTTLS.
        """
        known = {known.port: known.tls for known in self.ports}
        return known.get(port, "starttls") if self.host_is_yours else known[port]

    def accepts_host(self, host: str) -> bool:
        """Whether `upstream.host` may be this name: one of the preset's, or any where it has none."""
        own = {name.format(region=region) for region, name in self.hosts.value.items()}
        others = any(re.fullmatch(other.pattern, host) for other in self.other_hosts)
        return self.host_is_yours or others or host in own


def _port_problems(preset: Preset) -> list[str]:
    ports = [known.port for known in preset.ports]
    if preset.default_port not in ports:
        return [f"`default_port` is {preset.default_port}, which is not among `ports`"]
    return []


def _host_problems(preset: Preset) -> list[str]:
    problems = [
        f"`other_hosts`: `{other.pattern}` does not match its example `{other.example}`"
        for other in preset.other_hosts
        if not re.fullmatch(other.pattern, other.example)
    ]
    if bool(preset.hosts.value) == preset.host_is_yours:
        problems.append("`hosts` is to be empty with `host_is_yours`, and only then")
    return problems


def _shape_problems(preset: Preset) -> list[str]:
    """Find shapes that are never taken: the first whose fields are all in the secret is."""
    shapes = preset.secret_shapes
    problems = [] if shapes else ["`secret_shapes` is empty"]
    for index, later in enumerate(shapes):
        for earlier in shapes[:index]:
            if set(earlier.fields) <= set(later.fields):
                problems.append(f"secret shape `{later.name}` is never reached: `{earlier.name}` comes first")
    offered = {"xoauth2" if name == "xoauth2" else "password" for name in preset.mechanism_names}
    problems += [
        f"secret shape `{shape.name}` needs `{shape.mechanism}`, which `mechanisms` does not have"
        for shape in shapes
        if shape.mechanism not in offered
    ]
    return problems


def _delivery_problems(preset: Preset) -> list[str]:
    ours, limits, problems = preset.delivery, preset.limits, []
    if ours.initial_concurrency > ours.concurrency:
        problems.append("`delivery.initial_concurrency` is above `delivery.concurrency`")
    chosen = ours.model_fields_set & {"concurrency", "messages_per_connection", "queue_lifetime_hours"}
    problems += [f"`delivery.basis.{name}` is missing" for name in sorted(chosen - set(ours.basis))]
    if limits.connections and ours.concurrency > limits.connections.value:
        problems.append("`delivery.concurrency` is above `limits.connections`")
    cap = limits.messages_per_connection
    if cap and ours.messages_per_connection > cap.value:
        problems.append("`delivery.messages_per_connection` is above `limits.messages_per_connection`")
    return problems


def _unknown_sources(preset: Preset) -> list[str]:
    used = {
        preset.hosts.source,
        preset.tls_required.source,
        *(other.source for other in preset.other_hosts),
        *(note.source for note in preset.notes),
        *(port.source for port in preset.ports),
        *(shape.source for shape in preset.secret_shapes),
        *(mechanism.source for mechanism in preset.mechanisms if mechanism.source),
        *(basis.source for basis in preset.delivery.basis.values()),
        *(reply.source for reply in preset.replies),
        *(limit.source for _name, limit in preset.limits if limit is not None),
    }
    if preset.accepts_null_sender is not None:
        used.add(preset.accepts_null_sender.source)
    unused = set(preset.sources) - used
    return [
        *(f"`{key}` is not in `sources`" for key in sorted(used - set(preset.sources))),
        *(f"`sources.{key}` is not used by any value" for key in sorted(unused)),
    ]


def preset_names() -> list[str]:
    """List the known presets by name."""
    return sorted(path.stem for path in assets.folder("provider_presets").glob("*.yaml"))


@lru_cache
def load_preset(name: str) -> Preset:
    """Load a preset by name; BuilderError names the nearest known one."""
    if name not in preset_names():
        near = difflib.get_close_matches(name, preset_names(), n=1)
        raise BuilderError(
            f"There is no preset `{name}`",
            hint=(f"Did you mean `{near[0]}`? " if near else "")
            + f"Known presets: {', '.join(preset_names())}",
        )
    return read_preset(assets.folder("provider_presets") / f"{name}.yaml")


def read_preset(path: Path) -> Preset:
    """Read one preset file; ConfigError lists every mistake in it."""
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(path.name, [f"not YAML: {error}"]) from error
    try:
        preset = Preset.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"`{'.'.join(str(part) for part in item['loc'])}`: {item['msg']}" for item in error.errors()
        ]
        raise ConfigError(path.name, problems) from error
    if preset.name != path.stem:
        raise ConfigError(path.name, [f"`name` is `{preset.name}`, expected `{path.stem}` as the file"])
    return preset
