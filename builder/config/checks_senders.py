"""What must fit together about senders: the null one, and those that `hygiene.sender_rewrite` replaces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from builder.config.hygiene import SenderRewrite
from builder.config.problem import Problem, Where

if TYPE_CHECKING:
    from builder.config.model import RelayConfig


def check_replaced(config: RelayConfig) -> Iterator[Problem]:
    """Give every route and DKIM key for senders that no message has once `sender_rewrite` has replaced them.

    cleanup(8) does so when a message comes in: before qmgr(8) asks for a route, and before the signature.
    """
    rewrite = config.hygiene.sender_rewrite
    if rewrite is None:
        return
    places: list[tuple[Where, str, str]] = [
        (("routes", index, "sender_domains", position), domain, "route")
        for index, route in enumerate(config.routes)
        for position, domain in enumerate(route.sender_domains)
    ]
    if config.dkim and rewrite.from_header:
        places += [
            (("dkim", "keys", index, "domain"), key.domain, "key")
            for index, key in enumerate(config.dkim.keys)
        ]
    for where, domain, what in places:
        if not _leaves_any(rewrite, domain):
            text = f"is `{domain}`, but `hygiene.sender_rewrite` replaces every sender in it"
            hint = f"Add the domain to `hygiene.sender_rewrite.keep`, or remove the {what}"
            yield Problem(where, text, hint)


def _leaves_any(rewrite: SenderRewrite, domain: str) -> bool:
    """Whether a message may have a sender in a domain after the rewriting."""
    left = [rewrite.address.rpartition("@")[2].lower(), *rewrite.keep]
    return any(_is_below(name, domain) for name in left) or any(
        _is_below(domain, name) for name in rewrite.keep
    )


def _is_below(name: str, domain: str) -> bool:
    """Whether a domain is another one or lies below it."""
    return name == domain or name.endswith(f".{domain}")


def check_null_sender(config: RelayConfig) -> Iterator[Problem]:
    """Give every access rule that does not fit what `dsn.from_clients` does with mail from `<>`."""
    choice = config.null_sender
    for index, rule in enumerate(config.access.senders.rules):
        if (rule.kind, rule.pattern) != ("exact", "<>") or choice == "pass":
            continue
        # It is replaced before smtpd(8) asks the rules, and refused after it.
        if choice == "rewrite" or rule.action in ("allow", "hold"):
            what = "sends it from another sender" if choice == "rewrite" else "refuses it"
            where: Where = ("access", "senders", "rules", index)
            text = f"is about `<>`, but `dsn.from_clients: {choice}` {what}"
            yield Problem(where, text, "Set `dsn.from_clients: pass` or remove the rule")
    if choice == "rewrite":
        yield from _refused_replacement(config)


def _refused_replacement(config: RelayConfig) -> Iterator[Problem]:
    """Refuse a sender in place of `<>` that the access rules turn away: smtpd(8) asks for that one."""
    sender, access = config.notice_sender, config.access
    if sender is None:
        return
    begun = f"is `rewrite`, which sends mail from `<>` as `{sender}`, but"
    where: Where = ("dsn", "from_clients")
    for index, rule in enumerate(access.senders.rules):
        if rule.matches(sender):
            if rule.action in ("reject", "discard"):
                text = f"{begun} `access.senders.rules[{index}]` {rule.action}s that"
                yield Problem(where, text, "Allow that address before the rule, or set another `dsn.sender`")
            break
    else:
        if access.senders.otherwise == "reject":
            text = f"{begun} no rule of `access.senders` allows that"
            hint = f"Add `{{pattern: {sender}, kind: exact, action: allow}}` or set another `dsn.sender`"
            yield Problem(where, text, hint)
    domain = sender.rpartition("@")[2].lower()
    for index, entry in enumerate(access.sender_domains):
        if not any(_is_below(domain, name) for name in entry.domains):
            text = f"are without `{domain}`, so mail from `<>` there, sent as `{sender}`, is refused"
            hint = f"Add `{domain}`, or set another `dsn.sender` or `dsn.from_clients`"
            yield Problem(("access", "sender_domains", index, "domains"), text, hint)
