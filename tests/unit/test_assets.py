from __future__ import annotations

from pathlib import Path

import pytest

from builder import assets
from builder.errors import BuilderError


@pytest.mark.parametrize("name", ["cloudinit", "packer", "provider_presets"])
def test_the_data_folders_of_the_checkout_are_found(name: str, repository: Path) -> None:
    assert assets.folder(name) == repository / name


def test_a_missing_folder_says_how_to_install_again() -> None:
    with pytest.raises(BuilderError) as caught:
        assets.folder("no-such-folder")

    assert "`no-such-folder`" in caught.value.message
    assert "pip install" in (caught.value.hint or "")
