"""What the user wants: `relay.yaml` and flags as one frozen `RelayConfig`."""

from builder.config.boot import BootConfig
from builder.config.load import boot_config, load_boot_config, load_config
from builder.config.model import RelayConfig
from builder.config.routing import ProviderChoice, UpstreamOverride, arn_region

__all__ = [
    "BootConfig",
    "ProviderChoice",
    "RelayConfig",
    "UpstreamOverride",
    "arn_region",
    "boot_config",
    "load_boot_config",
    "load_config",
]
