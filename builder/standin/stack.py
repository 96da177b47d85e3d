"""All stand-ins at once, and what a guest must be told to use them: for `demo`, `verify` and tests.

with StandIns(secrets={"relay/ses": {"username": "u", "password": "p"}},
users={"u": "p"}, host_address="10.0.2.2") as stand_ins:
stand_ins.boot_json            # goes into the guest as /etc/relay/boot.json
stand_ins.hosts_line           # goes into the guest's /etc/hosts
stand_ins.provider, stand_ins.secrets, stand_ins.metadata
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from builder.standin.metadata import Metadata
from builder.standin.provider import DEFAULT_HOST, Provider
from builder.standin.secrets import SecretsManager
from builder.standin.tokens import TokenService

QEMU_HOST = "10.0.2.2"  # the host as seen from a guest on QEMU's user network
LOOPBACK = "127.0.0.1"


class StandIns:
    """The services on free ports of this machine's loopback.

    `secrets` maps names to what is in them; boot.json names the first. `host_address` is where a guest finds
    all of it: `QEMU_HOST` for a guest under QEMU. `tls` says which of the provider's ports boot.json names;
    None leaves the port as it was baked. `token_hosts` are the names of the provider's OAuth token service,
    if it has one. The secrets can be read only with the role credentials that the metadata service hands out;
    keyword arguments in `provider_options` go to `Provider`.
    """

    def __init__(
        self,
        *,
        secrets: Mapping[str, Mapping[str, Any]],
        users: Mapping[str, str],
        region: str = "us-east-1",
        host_names: Sequence[str] = (DEFAULT_HOST,),
        tls: Literal["starttls", "implicit"] | None = "starttls",
        host_address: str = LOOPBACK,
        token_hosts: Sequence[str] = (),
        provider_options: Mapping[str, Any] | None = None,
    ) -> None:
        access_key_id = "ASIASTANDINRELAY"
        self.secret_name = next(iter(secrets))
        self.region = region
        self.host_address = host_address
        self.provider = Provider(
            users=users, host_names=[*host_names, *token_hosts], **(provider_options or {})
        )
        self.tokens = TokenService(self.provider.server_context()) if token_hosts else None
        self.secrets = SecretsManager(region=region, access_keys=[access_key_id])
        self.metadata = Metadata(region=region, access_key_id=access_key_id)
        # A guest on this machine is in no Auto Scaling group.
        self.metadata.set("meta-data/autoscaling/target-lifecycle-state", None)
        self._secrets = {name: dict(value) for name, value in secrets.items()}
        self._tls = tls
        self._running = ExitStack()

    def __enter__(self) -> StandIns:
        with ExitStack() as stack:
            for service in (self.provider, self.secrets, self.metadata, self.tokens):
                if service is not None:
                    stack.enter_context(service)
            for name, value in self._secrets.items():
                self.secrets.put(name, value)
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._running.close()

    @property
    def secrets_endpoint(self) -> str:
        """The Secrets Manager endpoint as the guest reaches it."""
        return f"http://{self.host_address}:{self.secrets.port}"

    @property
    def imds_endpoint(self) -> str:
        """The metadata endpoint as the guest reaches it."""
        return f"http://{self.host_address}:{self.metadata.port}"

    def provider_port(self, tls: Literal["starttls", "implicit"]) -> int:
        """Return the provider's port for a kind of TLS."""
        return self.provider.port if tls == "starttls" else self.provider.tls_port

    @property
    def boot_json(self) -> dict[str, Any]:
        """What /etc/relay/boot.json must say; the caller adds hostname and networks. No secret is in it."""
        upstream: dict[str, Any] = {"ca_pem": self.provider.ca_pem}
        if self._tls is not None:
            upstream = {"port": self.provider_port(self._tls), **upstream}
        return {
            "schema": 1,
            "secret": self.secret_name,
            "region": self.region,
            "endpoint": self.secrets_endpoint,
            "imds_endpoint": self.imds_endpoint,
            "upstream": upstream,
        }

    @property
    def hosts_line(self) -> str:
        """The line of /etc/hosts that leads the provider's names here."""
        return f"{self.host_address} {' '.join(self.provider.host_names)}"
