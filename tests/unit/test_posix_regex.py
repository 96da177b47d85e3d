"""POSIX extended regular expressions: what Postfix's `regexp:` tables skip or read in another way."""

from __future__ import annotations

import re
import warnings

import pytest

from builder.posix_regex import as_python, posix_problem, without_case


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (r"a(?=b)", "`(?…)` groups"),
        ("a*?", "lazy or possessive"),
        ("a{2}+", "lazy or possessive"),
        (r"(a)\1", "references"),
        ("a\nb", "line break"),
        ("é", "not ASCII"),
        # Letters that are something in Python
        (r"\d+", "read `\\d` in their own way: write `[0-9]`"),
        (r"\Aa\Z", "write `^`"),
        (r"\x41", r"do not know `\x`, and read it as `x`"),
        (r"a\tb", r"do not know `\t`, and read it as `t`"),
        (r"\0", r"do not know `\0`"),
        # and what only GNU knows
        (r"^\<\>$", "the beginning of a word; write `<`"),
        (r"\`a", "the beginning of the text"),
        # In brackets
        ("[[:letters:]]", "there is no class `[:letters:]`"),
        ("^[:digit:]+@", "write `[[:digit:]]` for the class"),
        (r"[a\-z]", "a backslash stands for itself"),
        (r"[\w.]+@", "a backslash stands for itself"),
        ("[[.hyphen.]]", "write the character itself"),
        ("[[=e=]]", "write the character itself"),
        ("[+-/]", "the `/` that ends a pattern"),
        # What the C library has to say
        ("a{", "Postfix would skip it: Unmatched"),
        ("{b}", "Postfix would skip it: Invalid preceding"),
        ("a{x}", "Postfix would skip it: Invalid content"),
        ("*a", "Postfix would skip it: Invalid preceding"),
        ("(", "Postfix would skip it: Unmatched"),
        ("[z-a]", "Postfix would skip it: Invalid range end"),
        ("[[:alpha:]", "Postfix would skip it: Unmatched"),
        ("a\\", "Postfix would skip it: Trailing backslash"),
        ("a)", "it is not a regular expression"),
        # Small to write and large to compile
        ("a{256}", "repeats more than 255 times"),
        ("((a{255}){255}){255}", "longer than 10000 characters"),
        ("((((((((a{99}){99}){99}){99}){99}){99}){99}){99}){99}", "longer than 10000 characters"),
    ],
)
def test_what_postfix_skips_or_reads_otherwise_is_refused(pattern: str, why: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert why in str(posix_problem(pattern))


# Each with what it matches and what it does not; tests/postfix/test_rules.py asks Postfix the same.
ACCEPTED = [
    (r"^[0-9]+$", "12", "x"),
    (r"a\.b", "a.b", "axb"),
    (r"^(a|b){1,3}$", "abb", "abba"),
    (r"^([0-9]{1,3}\.){3}[0-9]{1,3}$", "10.0.0.1", "10.0.0"),
    (r"\\d", "\\d", "1"),
    ("^[[:alpha:]_]+$", "a_b", "a1"),
    (r"^\w+\b@\W?$", "app@", "a-pp@"),
    ("^[]a-]+$", "]-a", "b"),
    ("^[^]@-]+$", "b", "]"),
    ("^[!--]$", "#", "a"),
    ("^[a||&&~~[]+$", "a|&~[", "b"),
    ("^a{,2}$", "aa", "aaa"),
    ("^x[@/]y$", "x/y", "x.y"),
    ("^a/b$", "a/b", "a"),
    ("^(|a)b$", "b", "aab"),
    ("^<>$", "<>", "a@b.example"),
    ("}]", "}]", "{"),
    (r"\$5", "$5", "5"),
    ("^[$]{2}$", "$$", "$"),
]


@pytest.mark.parametrize(("pattern", "yes", "no"), ACCEPTED)
def test_what_is_accepted_is_read_as_postfix_does(pattern: str, yes: str, no: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert posix_problem(pattern) is None
        assert re.search(as_python(pattern), yes)
        assert not re.search(as_python(pattern), no)


def test_patterns_are_compared_without_case() -> None:
    assert without_case(r"^App\.X@\W") == r"^app\.x@\W"
