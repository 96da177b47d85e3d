"""The world around a relay that is tried: stand-ins for all that it talks to, and who logs in there."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import trustme

from builder.config import BootConfig, RelayConfig
from builder.render import render_boot
from builder.standin.sample import SampleCredential, sample_credential
from builder.standin.stack import QEMU_HOST, StandIns

# The guest's only neighbour on QEMU's user network is this machine, as 10.0.2.2: it alone may relay.
NETWORKS = (f"{QEMU_HOST}/32",)
HOST_NAME = "verify.relay.internal"
SUBMISSION_USER = "probe"
_HTTPS = 443
# What `openssl rehash` does for one file: OpenSSL looks for an authority by the hash of its name.
_TRUST = """\
file=/etc/ssl/certs/stand-in.pem
cat >$file <<'END'
{pem}
END
ln -sf $file /etc/ssl/certs/$(openssl x509 -noout -hash -in $file).0
"""


@dataclass(frozen=True)
class Logins:
    """Every credential of one relay: one for each provider by its name, and a user of its submission port."""

    providers: Mapping[str, SampleCredential]
    secrets: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Name → content of every secret that the relay fetches, the first provider's first."""
    submission_password: str | None = field(default=None, repr=False)

    @property
    def first(self) -> SampleCredential:
        """The login at the provider that gets the mail."""
        return next(iter(self.providers.values()))

    @property
    def usernames(self) -> set[str]:
        """Who may log in at a provider."""
        return {login.username for login in self.providers.values()}

    @property
    def token_hosts(self) -> list[str]:
        """The token services that are asked for access tokens."""
        grants = (login.grant for login in self.providers.values())
        return sorted({grant.host for grant in grants if grant is not None})

    @property
    def traces(self) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of all that gives a credential away."""
        for provider, login in self.providers.items():
            yield from ((f"{name} ({provider})", value) for name, value in login.traces.items())
        if self.submission_password is not None:
            yield "the password (submission)", self.submission_password.encode()
        for name, content in self.secrets.items():
            if "private_key" in content:
                # Its second line: the first, and the last, are alike in every key.
                yield f"the private key of `{name}`", str(content["private_key"]).splitlines()[1].encode()


def sample_logins(config: RelayConfig) -> Logins:
    """Return new random credentials; providers with one secret share what is in it.

    Each has a user of its own, where the provider's users have names at all; the same one at every call.
    """
    providers: dict[str, SampleCredential] = {}
    contents: dict[str, Mapping[str, Any]] = {}
    for number, (name, choice) in enumerate(config.upstreams()):
        providers[name] = sample_credential(
            choice.secret_shapes,
            choice.region,
            username=f"AKIASTANDINPROBE{number:04}",
            secret=contents.get(choice.secret_name),
        )
        contents[choice.secret_name] = providers[name].secret
    contents.update({key.secret: _signing_key() for key in config.dkim.keys} if config.dkim else {})
    password = None
    if config.submission:
        password = f"Canary{secrets.token_hex(17)}"
        contents[config.submission.secret] = _submission_secret(password)
    return Logins(providers, contents, password)


def _signing_key() -> dict[str, str]:
    # An authority's certificate is of no use here; its key is of the kind that DKIM takes.
    certificate = trustme.CA().issue_cert(HOST_NAME, key_type=trustme.KeyType.RSA)
    return {"private_key": certificate.private_key_pem.bytes().decode()}


def _submission_secret(password: str) -> dict[str, Any]:
    certificate = trustme.CA().issue_cert(HOST_NAME)
    return {
        "users": {SUBMISSION_USER: password},
        "certificate": "".join(each.bytes().decode() for each in certificate.cert_chain_pems),
        "private_key": certificate.private_key_pem.bytes().decode(),
    }


def make_stand_ins(config: RelayConfig, logins: Logins) -> StandIns:
    """Return the stand-ins of a guest under QEMU that was baked from `config`, not started yet.

    One stand-in plays all of its providers: what befalls the first then befalls its fallback as well.
    """
    stand_ins = StandIns(
        secrets=logins.secrets,
        users={},
        region=config.aws_region or "us-east-1",
        host_names=list(dict.fromkeys(choice.upstream_host for _name, choice in config.upstreams())),
        tls=None,
        host_address=QEMU_HOST,
        token_hosts=logins.token_hosts,
        provider_options={"mechanisms": _mechanisms(config)},
    )
    let_in(stand_ins, logins)
    return stand_ins


def let_in(stand_ins: StandIns, logins: Logins) -> None:
    """Let the provider take these passwords and, for their users, no others; the same with access tokens."""
    if stand_ins.tokens is not None:
        stand_ins.tokens.revoke_all()
        for login in logins.providers.values():
            if login.grant is not None:
                stand_ins.tokens.grant(login.grant.proof, login.password)
    seen: set[str] = set()
    # The first provider's comes last: of two accounts with one user name it is the one that is `current`.
    for login in reversed(list(logins.providers.values())):
        stand_ins.provider.set_password(login.username, login.password, keep_old=login.username in seen)
        seen.add(login.username)


def boot_user_data(config: RelayConfig, stand_ins: StandIns) -> str:
    """Return the launch user data of an instance that uses the stand-ins.

    The image keeps its providers' names and ports as they were baked: /etc/hosts leads the names here, and a
    table of nftables in the guest leads the ports to those of the stand-in.
    """
    boot = BootConfig.model_validate({**stand_ins.boot_json, "networks": NETWORKS, "hostname": HOST_NAME})
    hosts = dict.fromkeys(stand_ins.provider.host_names, QEMU_HOST)
    commands = [["nft", _redirects(config, stand_ins)]]
    if stand_ins.tokens is not None:
        # The agent checks the token service's certificate against the system's authorities, in this folder.
        commands.append(["sh", "-c", _TRUST.format(pem=stand_ins.provider.ca_pem)])
    if config.firewall.enabled and config.firewall.management_networks is not None:
        # Who tries the image has to reach its SSH and health ports.
        commands.append(["nft", f"add element inet relay management4 {{ {QEMU_HOST} }}"])
    return render_boot(boot, hosts=hosts, extra={"bootcmd": commands})


def _mechanisms(config: RelayConfig) -> list[str]:
    return sorted({name.upper() for _name, choice in config.upstreams() for name in choice.mechanisms})


def _redirects(config: RelayConfig, stand_ins: StandIns) -> str:
    ports = {
        choice.upstream_port: stand_ins.provider_port(choice.upstream_tls)
        for _name, choice in config.upstreams()
    }
    if stand_ins.tokens is not None:
        ports[_HTTPS] = stand_ins.tokens.port
    rules = "".join(
        f"ip daddr {QEMU_HOST} tcp dport {port} dnat to {QEMU_HOST}:{here}; " for port, here in ports.items()
    )
    return f"add table ip stand_ins {{ chain output {{ type nat hook output priority -100; {rules}}}; }}"
