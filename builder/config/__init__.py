"""What the user wants: `relay.yaml` and flags as one frozen `RelayConfig`."""

from builder.config.load import load_config
from builder.config.model import BootConfig, RelayConfig, UpstreamOverride

__all__ = ["BootConfig", "RelayConfig", "UpstreamOverride", "load_config"]
