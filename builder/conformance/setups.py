"""The relays that the cases need: a configuration, the providers it names, and all of it started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.config.model import RelayConfig
from builder.conformance.local import LocalRelay
from builder.conformance.scene import Upstream
from builder.releases import Release
from builder.render import render
from builder.standin.provider import Provider

SES = "email-smtp.us-east-1.amazonaws.com"


@dataclass(frozen=True)
class Setup:
    """A configuration with the hosts of its providers; `implicit_tls` says which of their ports is used."""

    config: Mapping[str, Any]
    hosts: tuple[str, ...] = (SES,)
    implicit_tls: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What the harness adds to main.cf."""


SETUPS: Mapping[str, Setup] = {
    "plain": Setup({"preset": "ses", "region": "us-east-1"}),
    "implicit-tls": Setup(
        {"preset": "ses", "region": "us-east-1", "upstream": {"port": 465}}, implicit_tls=True
    ),
}


@dataclass(frozen=True)
class Bed:
    """A running relay with its providers."""

    relay: LocalRelay
    upstreams: Sequence[Upstream]


@contextlib.contextmanager
def running(setup: Setup, release: Release, folder: Path, *, root: Path = Path("/")) -> Iterator[Bed]:
    """Start the providers and a private Postfix of a release; `root` is the tree that it is installed in."""
    config = RelayConfig.model_validate(dict(setup.config))
    ca_folder = folder / "ca"
    with contextlib.ExitStack() as stack:
        upstreams = [
            Upstream(host, user, f"password-{user}", provider)
            for number, host in enumerate(setup.hosts, start=1)
            for user in [f"user{number}"]
            for provider in [
                Provider(users={user: f"password-{user}"}, host_names=(host,), ca_folder=ca_folder)
            ]
        ]
        for upstream in upstreams:
            stack.enter_context(upstream.provider)
        relay = LocalRelay(
            render(config, release),
            folder / "relay",
            ports={
                up.host: up.provider.tls_port if setup.implicit_tls else up.provider.port for up in upstreams
            },
            ca_pem=upstreams[0].provider.ca_pem,
            root=root,
            parameters=setup.parameters,
        )
        yield Bed(stack.enter_context(relay), upstreams)
