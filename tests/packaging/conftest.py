"""The wheel of this checkout, and environments in which it is installed without downloading anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel of a source tree, without the network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    done = subprocess.run(command, cwd=source, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def install(wheel: Path, home: Path) -> Path:
    """Make an environment in `home` with nothing but the wheel in it; its folder of packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    return packages


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment in which the wheel is installed, with all packages of this one.

    Not with its editable install of the project: a path in a .pth file is searched for modules, but its own .pth files
    are not read.
    """
    home = tmp_path_factory.mktemp("environment")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (install(wheel, home) / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return home / "bin"


def run(program: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment with nothing configured."""
    ours = ("CC_", "ETL_", "DATABASE_", "TRIALSYNC_", "LOG_", "PYTHON", "PG", "COV_", "COVERAGE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [str(program), *args],
        cwd=cwd,
        env={**env, "CI": "1", "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
