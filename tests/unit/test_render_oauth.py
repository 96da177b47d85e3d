"""XOAUTH2 in an image: the mechanism's source where it is needed, and Postfix told to use it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.releases import RELEASES
from tests.rendered import parameters, rendered

SOURCE = "root/usr/lib/relay/sasl/xoauth2.c"
SCRIPT = "root/usr/lib/relay/sasl/build.sh"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("preset", "auth"), [("microsoft365", None), ("gmail", "xoauth2")])
def test_oauth_brings_the_mechanism_on_every_release(preset: str, auth: str | None, release: str) -> None:
    files = rendered(preset, release, **({"auth": auth} if auth else {}))
    assert parameters(files["root/etc/postfix/main.cf"])["smtp_sasl_mechanism_filter"] == "xoauth2"
    assert "SASL_CB_PASS" in files[SOURCE]
    assert "librelayxoauth2.so" in files[SCRIPT]
    upstream = json.loads(files["root/etc/relay/agent.json"])["upstreams"][0]
    assert upstream["mechanisms"] == ["xoauth2"]
    assert all(shape["grant"] for shape in upstream["shapes"])


@pytest.mark.parametrize("preset", ["ses", "gmail", "postmark"])
def test_a_password_needs_no_mechanism_of_ours(preset: str) -> None:
    files = rendered(preset)
    assert SOURCE not in files
    assert SCRIPT not in files
    assert "xoauth2" not in parameters(files["root/etc/postfix/main.cf"])["smtp_sasl_mechanism_filter"]


@pytest.mark.parametrize(
    "more",
    [
        {"fallback": {"preset": "microsoft365"}},
        {"routes": [{"name": "team", "preset": "microsoft365", "sender_domains": ["team.example"]}]},
        {"warm_up": {"preset": "gmail", "auth": "xoauth2", "percent": 10}},
    ],
)
def test_one_provider_with_oauth_is_enough(more: dict[str, Any]) -> None:
    assert SOURCE in rendered("ses", **more)
