"""Read `relay.yaml`, put flags over it, and report every mistake at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from builder.config.model import RelayConfig
from builder.errors import ConfigError


def load_config(path: Path | None, flags: Mapping[str, Any] | None = None) -> RelayConfig:
    """Read a configuration file (None: flags alone) and return it checked.

    Flags that are None are left out; others replace the file's keys. Errors: ConfigError with every
    mistake: key, found, expected, nearest key.
    """
    source = str(path) if path else "command line"
    raw: dict[str, Any] = {}
    if path is not None:
        try:
            raw = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise ConfigError(source, [f"not YAML: {error}"]) from error
    raw.update({key: value for key, value in (flags or {}).items() if value is not None})
    try:
        return RelayConfig.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"`{'.'.join(str(part) for part in item['loc'])}`: {item['msg']}" for item in error.errors()
        ]
        raise ConfigError(source, problems) from error
