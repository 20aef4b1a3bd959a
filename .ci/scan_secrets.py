"""Find what must never be committed: keys, passwords, and the address of a real instance or database.

    python .ci/scan_secrets.py            every file git knows
    python .ci/scan_secrets.py FILE...    these files (how pre-commit calls it)

Prints file:line and the rule, never the find itself. Exit code 1 if there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAMED = r"(?i)(?:api[_-]?key|ccapikey|x-apikey|passw(?:or)?d|secret|access[_-]?token|auth[_-]?token|bearer)\w*"
ASSIGNED = NAMED + r"[\"'`\]]*\s*(?::\s*\w+\s*)?[:=,]?\s*[\"'`]?"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
RULES = {
    "a key that is a UUID": re.compile(ASSIGNED + UUID),
    "a long random key": re.compile(
        ASSIGNED + r"(?=[A-Za-z0-9+/_-]*[0-9])(?=[A-Za-z0-9+/_-]*[A-Za-z])[A-Za-z0-9+/_]{24,}"
    ),
    "a private key": re.compile("-----BEGIN [A-Z ]*PRIVATE" + " KEY-----"),
    "a cloud access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
}
URL = re.compile(r"(?i)\b(?:https?|postgres(?:ql)?)://(?:[^\s/@\"'`]*@)?(\[[0-9a-f:]+\]|[\w.-]+)[^\s\"'`]*")
ABOUT_AN_INSTANCE = re.compile(r"(?i)base_?url|api_?url|api_?host|database_(?:url|host)|ccsweb|postgres(?:ql)?://")
# A name in front of a bracket is code, no host.
HOST_SETTING = re.compile(
    r"(?i)\b(?:\w*database_host|\w*api_?host|pghost)\b[\"']?\s*[:=]\s*[\"']?([\w-]+(?:\.[\w-]+)+)(?![\w.-]*[(\[])"
)
HARMLESS_HOST = re.compile(
    r"(?i)(?:.+\.)?example\.(?:com|org|net)|localhost|127(?:\.\d+){3}|0\.0\.0\.0|\[?::1\]?|[^.]+"
)


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Line number and rule of everything in `text` that looks like a secret or a real address."""
    for number, line in enumerate(text.splitlines(), 1):
        for rule, pattern in RULES.items():
            if pattern.search(line):
                yield number, rule
        hosts = HOST_SETTING.findall(line)
        if ABOUT_AN_INSTANCE.search(line):
            hosts += URL.findall(line)
        if any(not HARMLESS_HOST.fullmatch(host.rstrip(".")) for host in hosts):
            yield number, "the address of a real instance or database (use ccs.example.com)"


def main(names: list[str]) -> int:
    """Scan the files; print what was found; return the exit code."""
    if not names:
        known = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout  # noqa: S607
        names = [name for name in known.split("\0") if name]
    found = 0
    for name in names:
        path = Path(name)
        if not path.is_file():
            continue
        for number, rule in findings(path.read_bytes().decode("utf-8", "replace")):
            print(f"{name}:{number}: {rule}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
