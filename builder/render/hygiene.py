"""Render what happens to headers and senders on the way."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from builder.config.hygiene import SenderRewrite
from builder.config.model import RelayConfig
from builder.render.routing import domain_pattern
from builder.render.templates import regexp_pattern, regexp_result, render_template

# In the relay's own Received header, in the place of "Postfix": tells it from those of earlier hops.
MAIL_NAME = "Relay"


@dataclass(frozen=True)
class HygieneFiles:
    """The files, and what main.cf and master.cf say about them."""

    files: dict[str, str]
    header_checks: str
    sender_canonical: str
    data_restrictions: tuple[str, ...]
    mail_name: str


def render_hygiene(config: RelayConfig) -> HygieneFiles:
    """Return the tables for headers and senders; nothing at all where nothing was asked for."""
    files: dict[str, str] = {}
    rows, from_rule = list(_header_rows(config)), _from_rule(config.hygiene.sender_rewrite)
    if rows or from_rule or config.hygiene.strip_received:
        files["etc/postfix/header_checks.regexp"] = render_template(
            "postfix/header_checks.regexp.j2",
            rows=rows,
            from_rule=from_rule,
            strip_received=config.hygiene.strip_received,
            mail_name=MAIL_NAME,
        )
    has_checks = "etc/postfix/header_checks.regexp" in files
    restrictions = tuple(_added(config, files))
    rewrite = config.hygiene.sender_rewrite
    if rewrite:
        files["etc/postfix/sender_canonical.regexp"] = _canonical(rewrite)
    return HygieneFiles(
        files=files,
        header_checks="regexp:/etc/postfix/header_checks.regexp" if has_checks else "",
        sender_canonical="regexp:/etc/postfix/sender_canonical.regexp" if rewrite else "",
        data_restrictions=restrictions,
        mail_name=MAIL_NAME if config.hygiene.strip_received else "",
    )


def _added(config: RelayConfig, files: dict[str, str]) -> Iterator[str]:
    """Add each header once for each message, under a name that no client knows; see header_checks."""
    for number, (name, _value) in enumerate(config.hygiene.added_headers.items(), start=1):
        path = f"etc/postfix/added_header_{number}.regexp"
        files[path] = (
            f"# {name}, once for each message; header_checks gives it its name.\n"
            f"/^/  PREPEND {_marker(config, name)}: yes\n"
        )
        # The sender is looked up once in a regexp table, in this place once for each message.
        yield f"check_sender_access regexp:/{path}"


def _marker(config: RelayConfig, name: str) -> str:
    digest = hashlib.sha256(f"{config.model_dump_json()}\n{name}".encode()).hexdigest()
    return f"X-Relay-{digest[:16]}"


def _header_rows(config: RelayConfig) -> Iterator[tuple[str, str]]:
    hygiene = config.hygiene
    for name, value in hygiene.added_headers.items():
        yield f"^{_marker(config, name)}:", regexp_result(f"REPLACE {name}: {value}")
    for name in hygiene.removed_headers:
        yield f"^{_literal(name)}[[:space:]]*:", "IGNORE"


def _literal(text: str) -> str:
    return str(regexp_pattern(re.sub(r"([][\\.^$*+?(){}|])", r"\\\1", text)))


def _from_rule(rewrite: SenderRewrite | None) -> dict[str, object] | None:
    """Describe how From is replaced: what is kept, and the address."""
    if rewrite is None or not rewrite.from_header:
        return None
    kept = [str(regexp_pattern(_kept_in_from(domain))) for domain in rewrite.keep]
    return {"kept": kept, "address": regexp_result(rewrite.address)}


def _kept_in_from(domain: str) -> str:
    return domain_pattern(domain).removesuffix("$") + r">?[[:space:]]*(\([^()]*\))?[[:space:]]*$"


def _canonical(rewrite: SenderRewrite) -> str:
    kept = [str(regexp_pattern(domain_pattern(domain))) for domain in rewrite.keep]
    address = regexp_result(rewrite.address)
    return render_template("postfix/sender_canonical.regexp.j2", kept=kept, address=address)
