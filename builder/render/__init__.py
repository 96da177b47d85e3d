"""Render every file that goes into an image: pure, from `RelayConfig` and `Release` to text by path."""

from __future__ import annotations

from builder import assets
from builder.config.model import BootConfig, RelayConfig
from builder.releases import Release
from builder.render.agent import render_agent
from builder.render.boot import render_boot, user_data_as_sent
from builder.render.dkim import render_dkim
from builder.render.firewall import render_firewall
from builder.render.oauth import render_oauth
from builder.render.packages import render_install
from builder.render.postfix import render_postfix

__all__ = ["render", "render_boot", "user_data_as_sent"]


def render(config: RelayConfig, release: Release) -> dict[str, str]:
    """Return all files by their path in the workspace.

    `root/…` goes into the image; `packages.txt` and `install.json` are for the bake scripts; `boot/user-data`
    is an example of what an instance launched from the image gets. Errors: BuilderError for a value that
    cannot be written.
    """
    image = {
        **render_postfix(config, release),
        **render_agent(config, release),
        **render_firewall(config),
        **render_dkim(config),
        **render_oauth(config),
        "etc/cloud/cloud.cfg.d/95-relay.cfg": assets.read("cloudinit", "cloud.cfg"),
    }
    example = BootConfig(secret=config.secret_name, region=config.aws_region, hostname=config.hostname)
    return {
        **{f"root/{path}": text for path, text in image.items()},
        **render_install(config, release),
        "boot/user-data": render_boot(example),
    }
