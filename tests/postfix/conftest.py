"""What the tests on a real Postfix share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from builder import process
from builder.conformance.here import installed_release
from builder.releases import Release


@pytest.fixture(scope="session")
def release() -> Release:
    """The newest release whose Postfix is not newer than the one installed here."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: a private Postfix runs in a namespace of its own")
    if not shutil.which("postconf", path=process.environment()["PATH"]) and not os.environ.get("CI"):
        pytest.skip("needs Postfix: `apt-get install postfix libsasl2-modules sasl2-bin`")
    return installed_release(Path("/"))
