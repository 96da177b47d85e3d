"""Check the regular expressions and rewrites that presets and access rules hand to Postfix."""

from __future__ import annotations

import re

# What Python accepts and POSIX extended expressions (regexp_table(5), regex(7)) read as something else.
_NOT_POSIX = (
    (re.compile(r"\(\?"), "`(?…)` groups"),
    (re.compile(r"(?<!\\)(?:\\\\)*\\[dDAZ]"), "`\\d`, `\\D`, `\\A` and `\\Z`; write `[0-9]`, `^` or `$`"),
    (re.compile(r"(?<!\\)[*+?}][?+]"), "lazy or possessive quantifiers such as `*?`"),
    (re.compile(r"(?<!\\)(?:\\\\)*\\[1-9]"), "references such as `\\1`"),
)
# The classes of a bracket expression, as Python spells what is in them (regex(7)).
_CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": r" \t", "digit": "0-9", "lower": "a-z", "upper": "A-Z",
    "punct": r"!-/:-@\[-`{-~", "space": r"\s", "xdigit": "0-9a-fA-F",
}  # fmt: skip
_CLASS = re.compile(r"\[:(\w+):\]")
_REFERENCE = re.compile(r"\$(?:\{([0-9]+)\}|\(([0-9]+)\)|([0-9]))")


def posix_problem(pattern: str) -> str | None:
    """Say what is wrong with a POSIX extended regular expression; None when nothing is."""
    if any(ord(character) < 32 for character in pattern):
        return "it holds a line break or another control character"
    for construct, name in _NOT_POSIX:
        if construct.search(pattern):
            return f"Postfix's `regexp:` tables do not know {name}"
    unknown = sorted(set(_CLASS.findall(pattern)) - set(_CLASSES))
    if unknown:
        return f"there is no class `[:{unknown[0]}:]`; there are {', '.join(_CLASSES)}"
    try:
        re.compile(as_python(pattern))
    except re.error as error:
        return f"it is not a regular expression: {error.msg} at character {(error.pos or 0) + 1}"
    return None


def as_python(pattern: str) -> str:
    """Return a POSIX extended expression as Python's `re` reads it: with its classes spelt out."""
    return _CLASS.sub(lambda found: _CLASSES.get(found[1], found[0]), pattern)


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
