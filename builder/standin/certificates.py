"""The provider stand-in's certificates: a good one, and each kind that a client must refuse."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from threading import Lock

import trustme

from builder.scratch import Scratch
from builder.standin.behaviour import Certificate

_EXPIRED_FROM = datetime(2020, 1, 1)
_EXPIRED_AT = datetime(2021, 1, 1)
_IMPOSTOR = "impostor.example.net"


class Certificates:
    """A certificate authority and the TLS contexts made with it, each made when it is first needed.

    With `folder` the authority is kept there (`ca.pem`, `ca.key`), so that a client that trusts it can be
    served again after a restart.
    """

    def __init__(self, host_names: Sequence[str], *, folder: Path | None = None) -> None:
        self._host_names = tuple(host_names)
        self._ca = trustme.CA(organization_name="builder stand-in") if folder is None else _kept(folder)
        self._contexts: dict[Certificate, ssl.SSLContext] = {}
        self._lock = Lock()

    @property
    def ca_pem(self) -> str:
        """The certificate that a client must trust, in PEM."""
        return self._ca.cert_pem.bytes().decode("ascii")

    def context(self, kind: Certificate) -> ssl.SSLContext:
        """Return the TLS context of a server that shows this certificate."""
        with self._lock:
            if kind not in self._contexts:
                self._contexts[kind] = self._new_context(kind)
            return self._contexts[kind]

    def _new_context(self, kind: Certificate) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if kind is Certificate.SELF_SIGNED:
            # An authority's own certificate is signed by itself: OpenSSL's error 18 at depth 0.
            alone = trustme.CA(organization_name="self-signed")
            _load(context, alone.private_key_pem.bytes() + alone.cert_pem.bytes())
            return context
        self._issue(kind).configure_cert(context)
        return context

    def _issue(self, kind: Certificate) -> trustme.LeafCert:
        if kind is Certificate.WRONG_NAME:
            return self._ca.issue_cert(_IMPOSTOR)
        if kind is Certificate.EXPIRED:
            return self._ca.issue_cert(*self._host_names, not_before=_EXPIRED_FROM, not_after=_EXPIRED_AT)
        if kind is Certificate.UNKNOWN_CA:
            return trustme.CA(organization_name="another authority").issue_cert(*self._host_names)
        return self._ca.issue_cert(*self._host_names)


def _load(context: ssl.SSLContext, key_and_certificate: bytes) -> None:
    """Load a key into a context; OpenSSL reads it only from a file."""
    with Scratch("standin") as folder:
        path = folder / "key.pem"
        path.touch(mode=0o600)
        path.write_bytes(key_and_certificate)
        context.load_cert_chain(path)


def _kept(folder: Path) -> trustme.CA:
    certificate, key = folder / "ca.pem", folder / "ca.key"
    if certificate.exists() and key.exists():
        return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())
    ca = trustme.CA(organization_name="builder stand-in")
    folder.mkdir(parents=True, exist_ok=True)
    key.touch(mode=0o600)
    key.write_bytes(ca.private_key_pem.bytes())
    certificate.write_bytes(ca.cert_pem.bytes())
    return ca
