"""A real browser without a window."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome", "google-chrome-stable", "chrome")


def dump_dom(browser: str, page: Path, *, width: int, dark: bool) -> str:
    """The document after the browser laid it out, with `width` CSS pixels; it may load nothing from anywhere."""
    with tempfile.TemporaryDirectory() as profile:
        frame = Path(profile) / "frame.html"
        # A window cannot be as narrow as a phone, a frame can; its script reports what the page measures.
        frame.write_text(
            f"""<!doctype html><iframe id=f src="{page.as_uri()}" width={width} height=2000></iframe><pre id=out></pre>
            <script>f.onload = () => {{
              const d = f.contentDocument, w = f.contentWindow, out = document.getElementById('out');
              const wide = [...d.querySelectorAll('body *')].filter(e => {{
                const r = e.getBoundingClientRect();
                return r.width && r.right > w.innerWidth + 1 && !e.closest('.scroll') && !e.closest('.skip');
              }}).map(e => e.tagName + '.' + e.className);
              const links = [...d.querySelectorAll('a[href^="#run-"]')];
              if (links.length) w.location.hash = links[0].getAttribute('href');
              const visible = e => w.getComputedStyle(e).display !== 'none';
              const shown = [...d.querySelectorAll('.run-page')].filter(visible).length;
              const body = w.getComputedStyle(d.body);
              out.textContent = 'REPORT' + JSON.stringify({{
                scroll: d.documentElement.scrollWidth, inner: w.innerWidth, wide, shown, links: links.length,
                color: body.color, back: body.backgroundColor,
                loaded: w.performance.getEntriesByType('resource').map(e => e.name),
              }}) + 'END';
            }};</script>""",
            encoding="utf-8",
        )
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
            f"--user-data-dir={profile}",
            "--window-size=1400,2100",
            "--virtual-time-budget=3000",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            "--dump-dom",
            frame.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
