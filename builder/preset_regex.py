"""Do and check the rewrites of replies that presets hand to Postfix."""

from __future__ import annotations

import re

from builder.posix_regex import as_python

_REFERENCE = re.compile(r"\$(?:\{([0-9]+)\}|\(([0-9]+)\)|([0-9]))")


def expand(pattern: str, rewrite: str, line: str) -> str:
    """Return a reply line as Postfix rewrites it (smtp_reply_filter); the same line when nothing matches.

    `$1`, `${1}` and `$(1)` stand for the groups, as in regexp_table(5).
    """
    found = re.search(as_python(pattern), line, re.IGNORECASE)
    if found is None:
        return line
    return _REFERENCE.sub(lambda reference: found.group(int(next(filter(None, reference.groups())))), rewrite)


def rewrite_problem(pattern: str, rewrite: str, example: str) -> str | None:
    """Say why a rewrite would not turn a 5xx reply into a 4xx one of the same shape; None when it does.

    The same shape: a three-digit code, the same space or hyphen after it (a hyphen says that more lines
    follow), and an enhanced status code, where there is one, of the new class.
    """
    groups = re.compile(as_python(pattern)).groups
    highest = max((int(next(filter(None, found))) for found in _REFERENCE.findall(rewrite)), default=0)
    if highest > groups:
        return f"`rewrite` uses ${highest}, but `pattern` has {groups} groups"
    for separator in (" ", "-"):
        before = f"{example[:3]}{separator}{example[4:]}"
        after = expand(pattern, rewrite, before)
        if not re.match(rf"4[0-9][0-9]{separator}", after):
            return f"`{before}` becomes `{after}`, expected a 4xx reply with the same separator"
    return None
