"""Read POSIX extended regular expressions as Postfix's `regexp:` tables do; say what is wrong with one."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

# One escaped character, one bracket expression, one `{…}`, or one character that is none of these.
_PART = re.compile(r"\\.|\[\^?\]?(?:\[([:.=]).*?\1\]|[^\]])*\]|\{[^}]*\}?|.", re.DOTALL)
_REPEAT = re.compile(r"\{([0-9]*)(?:,([0-9]*))?\}")
# What is in a bracket expression: a class, a range, a character.
_ITEM = re.compile(r"\[:(\w+):\]|(.)-(.)|(.)", re.DOTALL)
# The classes of a bracket expression, as Python spells what is in them (regex(7)).
CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": r" \t", "digit": "0-9", "lower": "a-z", "upper": "A-Z",
    "punct": r"!-/:-@\[-`{-~", "space": r"\s", "xdigit": "0-9a-fA-F",
}  # fmt: skip
# GNU's additions, which mean the same in Python.
_KNOWN_ESCAPES = "wWsSbB"
_IN_PLACE_OF = {
    "d": "write `[0-9]`", "D": "write `[^0-9]`", "A": "write `^`", "Z": "write `$`", "z": "write `$`",
    "<": "the beginning of a word; write `<`", ">": "the end of a word; write `>`",
    "`": "the beginning of the text; write `^`", "'": "the end of the text; write `$`",
}  # fmt: skip
# What the smallest POSIX system takes in `{…}` (RE_DUP_MAX), and what a pattern may grow to: the C library
# copies what is repeated, so that a short pattern could take all memory of the relay.
_MOST_REPEATS = 255
_MOST_ATOMS = 10_000
_EXTENDED, _ICASE = 1, 2  # REG_EXTENDED and REG_ICASE, in every C library
_REGEX_T_BYTES = 512
"""More than any C library's `regex_t`; glibc's has 64."""


def posix_problem(pattern: str) -> str | None:
    """Say what is wrong with a POSIX extended regular expression; None when nothing is.

    The last word has regcomp(3), which Postfix calls as well.
    """
    if any(not " " <= character <= "~" for character in pattern):
        return "it holds a line break or something else that is not ASCII text"
    parts = list(_parts(pattern))
    found = next(_problems(parts), None)
    if found:
        return found
    said = _compile(pattern)
    if said:
        return f"Postfix would skip it: {said}"
    try:
        re.compile(as_python(pattern))
    except re.error as error:
        return f"it is not a regular expression: {error.msg}"
    return None


def as_python(pattern: str) -> str:
    """Return a POSIX extended expression as Python's `re` has it, with its bracket expressions spelt out."""
    return "".join(_bracket(part) if _is_bracket(part) else part for part in _parts(pattern))


def without_case(pattern: str) -> str:
    """Return a pattern in small letters, for comparing; what is escaped stays what it is."""
    return "".join(part if part.startswith("\\") else part.lower() for part in _parts(pattern))


def _parts(pattern: str) -> Iterator[str]:
    return (found[0] for found in _PART.finditer(pattern))


def _is_bracket(part: str) -> bool:
    return len(part) > 1 and part.startswith("[")


def _problems(parts: Sequence[str]) -> Iterator[str]:
    unknown = "Postfix's `regexp:` tables do not know"
    for part, after in pairwise([*parts, ""]):
        if part == "(" and after == "?":
            yield f"{unknown} `(?…)` groups"
        elif (part in ("*", "+", "?") or part.startswith("{")) and after in ("?", "+"):
            yield f"{unknown} lazy or possessive quantifiers such as `*?`"
        elif part[0] == "\\" and "1" <= part[1:] <= "9":
            yield f"{unknown} references such as `\\1`"
        elif part[0] == "\\" and part[1:] in _IN_PLACE_OF:
            yield f"Postfix's `regexp:` tables read `{part}` in their own way: {_IN_PLACE_OF[part[1:]]}"
        elif part[0] == "\\" and part[1:].isalnum() and part[1:] not in _KNOWN_ESCAPES:
            yield f"{unknown} `{part}`, and read it as `{part[1:]}`"
        elif _is_bracket(part):
            yield from _bracket_problems(part)
    yield from _size_problems(parts)


def _bracket_problems(bracket: str) -> Iterator[str]:
    inner = bracket[1:-1]
    if inner.startswith(":") and inner.endswith(":") and len(inner) > 1:
        yield f"`{bracket}` is a list of characters; write `[{bracket}]` for the class"
    if "\\" in inner:
        yield f"in `{bracket}` a backslash stands for itself; put `]` first and `-` last to mean themselves"
    if "[." in inner or "[=" in inner:
        yield f"`{bracket}` has `[.` or `[=`, which depends on the language; write the character itself"
    for name, first, last, _one in _ITEM.findall(inner.removeprefix("^")):
        if name and name not in CLASSES:
            yield f"there is no class `[:{name}:]`; there are {', '.join(CLASSES)}"
        if "/" in (first, last):
            yield f"`{first}-{last}` has the `/` that ends a pattern in Postfix's tables; write it alone"


def _size_problems(parts: Sequence[str]) -> Iterator[str]:
    """Count what is left when all repetitions are written out."""
    sizes, last = [0], 0
    for part in parts:
        repeat = _REPEAT.fullmatch(part)
        if repeat:
            times = max(int(number) for number in (repeat[1] or "0", repeat[2] or "0", "1"))
            if times > _MOST_REPEATS:
                yield f"`{part}` repeats more than {_MOST_REPEATS} times"
            sizes[-1] += last * (times - 1)
            last *= times
        elif part == "(":
            sizes.append(0)
        elif part == ")" and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif part not in ("*", "+", "?", "|"):
            sizes[-1] += 1
            last = 1
        if sizes[-1] > _MOST_ATOMS:
            yield f"its repetitions make it longer than {_MOST_ATOMS} characters"
            return


def _bracket(bracket: str) -> str:
    """Return a bracket expression as Python reads it, where `[`, `-`, `&&` and others mean something else."""
    inner = bracket[1:-1]
    negated = "^" if inner.startswith("^") else ""
    items = [
        CLASSES.get(name, "") or (f"{re.escape(first)}-{re.escape(last)}" if first else re.escape(single))
        for name, first, last, single in _ITEM.findall(inner.removeprefix("^"))
    ]
    return f"[{negated}{''.join(items)}]"


def _compile(pattern: str) -> str | None:
    """Let the C library compile a pattern as dict_regexp.c does; return what it says against it.

    No program is started. A system without regcomp(3) says nothing.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "regcomp"):
        return None
    compiled = ctypes.create_string_buffer(_REGEX_T_BYTES)
    code = library.regcomp(compiled, pattern.encode("ascii"), _EXTENDED | _ICASE)
    if code == 0:
        library.regfree(compiled)
        return None
    message = ctypes.create_string_buffer(200)
    library.regerror(code, compiled, message, len(message))
    return message.value.decode("ascii", "replace")
