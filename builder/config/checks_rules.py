"""What must fit together about access rules: that each one can decide, and where that leaves notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from builder.config.policy import AccessList, AccessRule
from builder.config.problem import Problem, Where
from builder.posix_regex import without_case

if TYPE_CHECKING:
    from builder.config.model import RelayConfig

# Patterns that everybody writes for "any address".
_ANY = ("", ".", "^", ".*", "^.*", "^.*$", ".+", "^.+$")


def check_rules(config: RelayConfig) -> Iterator[Problem]:
    """Give every mistake about access rules."""
    yield from _rules(("access", "senders"), config.access.senders)
    yield from _rules(("access", "recipients"), config.access.recipients)
    for index, rule in enumerate(config.access.recipients.rules):
        if (rule.kind, rule.pattern) in (("exact", "<>"), ("regexp", "^<>$")):
            text = "is for `<>`, which no recipient is"
            yield Problem(("access", "recipients", "rules", index), text, "Use it in `access.senders`")
    yield from _notices(config)


def _rules(where: Where, rules: AccessList) -> Iterator[Problem]:
    for index, rule in enumerate(rules.rules):
        before = [(number, other) for number, other in enumerate(rules.rules[:index]) if _holds(other, rule)]
        if not before:
            continue
        number, first = before[0]
        if (first.kind, _plain(first)) == (rule.kind, _plain(rule)):
            text, hint = "has the pattern of an earlier rule, which decides", "Remove one of them"
        else:
            text = f"never decides: `{first.pattern[:60]}` before it matches whatever it matches"
            hint = f"Put it before `{'.'.join(map(str, where))}.rules[{number}]`, or remove it"
        yield Problem((*where, "rules", index), text, hint)
    # What is held may be released by hand.
    if rules.otherwise == "reject" and not any(rule.action in ("allow", "hold") for rule in rules.rules):
        text = f"is `reject`, but no rule allows anything, so no {where[-1]} are accepted"
        yield Problem((*where, "otherwise"), text, "Add rules with `action: allow`, or remove the line")


def _holds(first: AccessRule, later: AccessRule) -> bool:
    """Whether the first certainly matches whatever the later one does; what is not simple counts as no."""
    if first.kind == "regexp":
        return first.pattern in _ANY or (later.kind == "regexp" and _plain(first) == _plain(later))
    if first.kind == "exact" or later.kind == "regexp":
        return (first.kind, _plain(first)) == (later.kind, _plain(later))
    # As ends of addresses: `@a.example` and `.a.example` for a domain, the second alone for its subdomains.
    domain = _plain(first).removeprefix(".")
    end = _plain(later).rpartition("@")[2]
    return end.endswith(f".{domain}") or (end == domain and not first.pattern.startswith("."))


def _plain(rule: AccessRule) -> str:
    return without_case(rule.pattern) if rule.kind == "regexp" else rule.pattern.lower()


def _notices(config: RelayConfig) -> Iterator[Problem]:
    address = config.dsn.address
    if address is None:
        return
    if not config.dsn.classes:
        yield Problem(("dsn", "classes"), "is empty, so nothing is ever sent to `address`", "Remove the line")
    for index, rule in enumerate(config.access.recipients.rules):
        if not rule.matches(address):
            continue
        # What is rejected or held is so at the door, where the relay's own notices do not pass.
        if rule.action == "discard":
            text = f"is `{address}`, whose mail `access.recipients.rules[{index}]` discards"
            yield Problem(("dsn", "address"), text, "Use another address, or allow this one before that rule")
        return
