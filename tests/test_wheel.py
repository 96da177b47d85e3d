"""The wheel works by itself: in another folder, with the runtime dependencies and nothing of the checkout.

The virtual environment gets `builder` from the wheel, and of the third-party packages exactly those that
requirements/runtime.txt names, as links to where this environment has them: what only the tests need is
missing, as it is for a user.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RENDER = ("render", "--preset", "ses", "--region", "eu-west-1", "--json")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program to its end with nothing of this environment; returns stdout."""
    home = {"HOME": str(cwd), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=home, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{words}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(sys.executable, *build, "--wheel-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder `bin` of an environment with the wheel and the runtime dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    dependencies = folder / "dependencies"
    link_runtime_dependencies(dependencies)
    site = run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).strip()
    (Path(site) / "dependencies.pth").write_text(f"{dependencies}\n")
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    run(sys.executable, *install, wheel, cwd=folder)
    return folder / "venv/bin"


def link_runtime_dependencies(folder: Path) -> None:
    folder.mkdir()
    lines = (ROOT / "requirements/runtime.txt").read_text().splitlines()
    names = [
        match[1] for line in lines if (match := re.match(r"([A-Za-z0-9_.-]+)==(?!.*sys_platform)", line))
    ]
    assert len(names) > 20
    for name in names:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))


def test_the_wheel_holds_the_data_folders_and_nothing_that_was_compiled(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    tracked = run("git", "ls-files", "cloudinit", "packer", "provider_presets", cwd=ROOT).split()
    assert {f"builder/_assets/{name}" for name in tracked} <= set(names)
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"builder"}
    assert [name for name in names if "__pycache__" in name or name.endswith(".pyc")] == []


def test_the_wheel_renders_what_the_checkout_renders(installed: Path, tmp_path: Path) -> None:
    checkout = run(sys.executable, "-m", "builder", *RENDER, cwd=ROOT)

    from_wheel = run(installed / "builder", *RENDER, cwd=tmp_path)

    assert json.loads(from_wheel) == json.loads(checkout)
    assert list(tmp_path.iterdir()) == []


def test_builder_comes_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = "import builder, builder.assets; print(builder.__file__, builder.assets.folder('packer'))"

    printed = run(installed / "python", "-c", where, cwd=tmp_path)

    assert str(ROOT) not in printed
    assert "_assets/packer" in printed


def test_no_module_needs_a_package_that_only_tests_have(installed: Path, tmp_path: Path) -> None:
    walk = (
        "import builder, importlib, pkgutil\n"
        "names = [module.name for module in pkgutil.walk_packages(builder.__path__, 'builder.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'):\n"
        "        importlib.import_module(name)\n"
        "print(len(names))\n"
    )

    assert int(run(installed / "python", "-c", walk, cwd=tmp_path)) > 40


def test_the_version_is_the_projects(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "builder", "--version", cwd=tmp_path) == "builder, version 0.1.0\n"
