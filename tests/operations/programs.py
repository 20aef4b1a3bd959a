"""Programs that are no Python packages: promtool, systemd-analyze, a browser. `.ci/tools` puts them in."""

from __future__ import annotations

import os
import shutil

import pytest


def program(*names: str) -> str:
    """The path of the first of these programs that is here.

    Without any the test is skipped, or fails where TRIALSYNC_TEST_TOOLS=required.
    """
    for name in names:
        if path := shutil.which(name):
            return path
    reason = f"there is no {' or '.join(names)} here; .ci/tools puts it in, as root where there is apt-get"
    if os.environ.get("TRIALSYNC_TEST_TOOLS") == "required":
        pytest.fail(reason)
    pytest.skip(reason)
