"""What tests of relay.yaml share: a configuration from keys, and what is said against one."""

from __future__ import annotations

from typing import Any

import pytest

from builder.config import RelayConfig, load_config
from builder.errors import ConfigError

SES = {"preset": "ses", "region": "us-east-1"}


def config(**keys: Any) -> RelayConfig:
    return load_config(None, {**SES, **keys})


def problems(**keys: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        config(**keys)
    return f"{raised.value}\n{raised.value.hint}"


CUSTOM = {"preset": "custom", "region": None, "upstream": {"host": "smtp.custom.example"}}


def rules(side: str, *rules: tuple[str, str, str], otherwise: str = "allow") -> dict[str, Any]:
    listed = [{"kind": kind, "pattern": pattern, "action": action} for kind, pattern, action in rules]
    return {"access": {side: {"rules": listed, "otherwise": otherwise}}}
