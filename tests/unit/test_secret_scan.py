"""The secret scan fires on what it is for, stays quiet on what the project needs, and never prints what it found.

The samples are put together at run time, so that the scan does not find this file.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCAN = runpy.run_path(str(ROOT / ".ci/scan_secrets.py"))

UUID = "-".join(("0f3b8a52", "9c1d", "4e7a", "b6f0", "2d81c4a7e953"))
RANDOM = "q7Zx" * 8 + "1"
REAL_HOST = ".".join(("trials", "clinic", "org"))


@pytest.mark.parametrize(
    "line",
    [
        f"CC_API_KEY={UUID}",
        f"  api_key: '{UUID}'",
        f'headers = {{"X-ApiKey": "{UUID}"}}',
        f'"CCAPIKey" : "{UUID}"',
        f"DATABASE_PASSWORD={RANDOM}",
        f'api_key: str = "{RANDOM}"',
        "-----BEGIN RSA PRIVATE" + " KEY-----",
        "AKIA" + "ABCDEFGH" + "12345678",
        f"CC_API_BASE_URL=https://{REAL_HOST}/CCSWEB",
        f'base_url="https://{REAL_HOST}:8443/x"',
        f"see https://{REAL_HOST}/CCSWEB/swagger",
        f"DATABASE_URL=postgresql://me:pw@{REAL_HOST}:5432/x",
        f"DATABASE_HOST={REAL_HOST}",
        "CC_API_BASE_URL=https://10." + "1.2.3/CCSWEB",
    ],
)
def test_it_fires_on_keys_and_real_addresses(line: str) -> None:
    assert list(SCAN["findings"](f"first line\n{line}\n")), line


@pytest.mark.parametrize(
    "line",
    [
        "CC_API_BASE_URL=https://ccs.example.com/CCSWEB",
        "CC_API_BASE_URL=http://127.0.0.1:8765/CCSWEB",
        "DATABASE_URL=postgresql://etl@localhost:5432/trialsync",
        "DATABASE_URL=postgresql://postgres@db:5432/trialsync",
        "DATABASE_HOST=",
        'base_url = f"http://127.0.0.1:{port}/CCSWEB"',
        '"PGHOST": query.get("host"),',
        "CC_API_KEY=demo-key",
        "api_key = settings.api_key",
        f"uid = '{UUID}'",
        "The schema is at https://docs.python.org/3/library/json.html",
    ],
)
def test_it_is_quiet_on_placeholders_and_loopback(line: str) -> None:
    assert not list(SCAN["findings"](line)), line


def test_it_fails_names_the_place_and_keeps_the_secret_to_itself(tmp_path: Path) -> None:
    planted = tmp_path / "settings.ini"
    planted.write_text(f"[api]\nCC_API_KEY={UUID}\n")
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/scan_secrets.py", planted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{planted}:2: a key that is a UUID" in done.stdout
    assert UUID not in done.stdout + done.stderr
