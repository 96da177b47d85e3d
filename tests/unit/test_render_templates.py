"""Values never become more than values: no setting of main.cf, no key of YAML, no rule of a table."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from builder.config.model import RelayConfig
from builder.errors import BuilderError
from builder.releases import get_release
from builder.render import render
from builder.render.templates import main_cf_value, one_line, regexp_pattern, regexp_result, to_json
from tests.rendered import parameters

_BREAKS = ("a\nrelayhost = [evil.example]:25", "a\r\nb", "a\x00b", "a\x0bb", "a\u2028b", "a\x85b")


@pytest.mark.parametrize("value", _BREAKS)
def test_a_line_break_is_refused(value: str) -> None:
    with pytest.raises(BuilderError, match="line break"):
        one_line(value)


def test_a_dollar_in_a_value_stays_a_dollar() -> None:
    assert main_cf_value("price $mydomain") == "price $$mydomain"


@pytest.mark.parametrize("field", ["hostname", "domain"])
@pytest.mark.parametrize("value", _BREAKS)
def test_unchecked_values_never_become_directives(field: str, value: str) -> None:
    # model_construct skips the model's own checks: this is what stands behind them.
    values: dict[str, Any] = {"preset": "ses", "region": "us-east-1", field: value}
    config = RelayConfig.model_construct(None, **values)
    with pytest.raises(BuilderError, match="line break"):
        render(config, get_release("debian-12"))


def test_a_dollar_in_a_domain_does_not_name_a_parameter() -> None:
    config = RelayConfig.model_construct(preset="ses", region="us-east-1", domain="$mynetworks")
    text = render(config, get_release("debian-12"))["root/etc/postfix/main.cf"]
    assert parameters(text)["myorigin"] == "$$mynetworks"


def test_main_cf_of_the_user_stays_on_one_line() -> None:
    config = RelayConfig.model_construct(preset="ses", region="us-east-1", main_cf={"x": "1\ny = 2"})
    with pytest.raises(BuilderError, match="main_cf.x"):
        render(config, get_release("debian-12"))


def test_main_cf_of_the_user_may_name_parameters_and_hold_backslashes() -> None:
    config = RelayConfig(preset="ses", region="us-east-1", main_cf={"smtpd_banner": r"$myhostname \1 ESMTP"})
    text = render(config, get_release("debian-12"))["root/etc/postfix/main.cf"]
    assert parameters(text)["smtpd_banner"] == r"$myhostname \1 ESMTP"


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        'quo"te',
        "a: b # c",
        "{{ x }}",
        "new\nline\ttab",
        "ümlaut ✓ 😀",
        "\x7f\x85\u2028\ufeff",
        ["a", {"b": None}],
        True,
    ],
)
def test_json_in_yaml_means_the_same(value: Any) -> None:
    assert yaml.safe_load(f"key: {to_json(value)}\n") == {"key": value}


def test_a_slash_does_not_end_a_pattern() -> None:
    assert regexp_pattern("a/b") == r"a\/b"
    assert regexp_pattern(r"a\/b") == r"a\/b"
    assert regexp_pattern(r"a\\/b") == r"a\\\/b"


def test_a_dollar_in_a_result_stands_for_itself() -> None:
    assert regexp_result("you owe $5") == "you owe $$5"


def test_a_pattern_with_a_line_break_is_refused() -> None:
    with pytest.raises(BuilderError, match="line break"):
        regexp_pattern("a\n/^/ OK")
