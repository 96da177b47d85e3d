"""Render XOAUTH2: the SASL mechanism that an image compiles in its bake, for providers with OAuth 2.0."""

from __future__ import annotations

from builder import assets
from builder.config.model import RelayConfig

_FOLDER = "usr/lib/relay/sasl"


def render_oauth(config: RelayConfig) -> dict[str, str]:
    """Return source and build script by their path in the image; nothing when nobody logs in that way.

    No release has a plugin that Postfix can use (docs/oauth.md). The access token is the password in
    `/run/relay/sasl`, where the agent puts it and renews it; the plugin has no file of its own.
    """
    if all(choice.auth_kind != "xoauth2" for _name, choice in config.upstreams()):
        return {}
    files = assets.files_below(assets.folder("cloudinit") / "sasl")
    return {f"{_FOLDER}/{path.name}": path.read_text(encoding="utf-8") for path in files}
