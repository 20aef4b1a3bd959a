"""The dashboard says what the ledger says, to everybody: phone, dark mode, keyboard, screen reader, printed file."""

from __future__ import annotations

import json
import re
from datetime import UTC
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clinical_conductor.charts import day_bars, sparkline, stage_timeline
from clinical_conductor.dashboard import page, run_page, trouble_page
from clinical_conductor.ledger import Check, Day, Snapshot
from clinical_conductor.markup import style
from clinical_conductor.monitoring import read_run, read_runs, take_snapshot
from tests.operations.browser import NAMES, dump_dom
from tests.operations.conftest import NOW, Nights
from tests.operations.programs import program
from tests.operations.seeding import add_instance, add_run, seed_nights

Conn = psycopg.Connection[Any]
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Document(HTMLParser):
    """What a browser would see: ids, links, text, and whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def snapshot(kept: Nights) -> Snapshot:
    return kept.snapshot


@pytest.fixture
def nights(kept: Nights) -> dict[str, int]:
    return kept.runs


def test_front_page_names_each_trouble_with_its_command(snapshot: Snapshot, nights: dict[str, int]) -> None:
    document = Document(page(snapshot))
    assert snapshot.night.headline in document.words
    for command in (
        f"trialsync-etl retry --run-id {nights['invoices']}",
        "trialsync-etl run --job-id 33 --allow-mass-delete",
        "trialsync-etl doctor --resources queries --fix",
        "trialsync-etl retry --failed",
    ):
        assert command in document.words
    for group in ("API", "Database", "Data", "System", "Worth knowing"):
        assert f"{group} " in document.words
    hrefs = {attrs["href"] for attrs in document.all("a")}
    assert f"/runs/{nights['invoices']}" in hrefs


def test_first_look_says_what_failed_and_what_to_type(snapshot: Snapshot) -> None:
    head = page(snapshot).partition('id="needs"')[0]
    names = [job.resource for job in snapshot.troubles if job.health == "failed"]
    assert f"<p>{', '.join(names[:4])} and 1 more</p>" in head
    shown = re.findall(r'<code tabindex="0">(.*?)</code>', head)
    assert shown == snapshot.commands[:3]
    assert "trialsync-etl retry --failed" in shown


def test_a_warehouse_in_trouble_needs_somebody(conn: Conn) -> None:
    add_instance(conn)
    add_run(conn, "studies", NOW)
    conn.execute(
        """
        insert into dw_transformation_runs (procedure_name, status, error, started_at)
        select 'load_dw_dim_' || n, 'failed', 'PostgreSQL 53100: no room', now() from generate_series(1, 6) as n;
        insert into dw_quality_results (batch_id, check_name, severity, failures, passed, seconds)
        values (gen_random_uuid(), 'keys', 'error', 3, false, 0.1);
        """
    )
    text = page(take_snapshot(conn, now=NOW))
    needs = text.partition('id="needs"')[2].partition('id="jobs"')[0]
    assert "<h1>1 job ran; 6 procedures failed; 1 data quality error</h1>" in text
    assert re.findall(r"<h3>([\w ]+) <span[^>]*>(\d+)</span>", needs) == [("Warehouse", "6"), ("Data quality", "1")]
    assert "load_dw_dim_1, load_dw_dim_2, load_dw_dim_3, load_dw_dim_4 and 2 more" in needs
    assert re.findall(r'<code tabindex="0">(.*?)</code>', needs) == ["trialsync-etl transform", "trialsync-etl check"]


def test_a_page_without_a_ledger_says_what_to_do() -> None:
    document = Document(trouble_page("DatabaseTrouble", NOW, UTC))
    assert "The database cannot be reached" in document.words
    assert [words for words in document.words if words.startswith("trialsync-etl")] == [
        "trialsync-etl doctor",
        "trialsync-etl run",
    ]
    assert "The ledger cannot be read" in Document(trouble_page("ConfigurationError", NOW, UTC)).words


def test_what_a_message_quotes_is_shown_as_code(conn: Conn) -> None:
    add_instance(conn)
    said = "rooms: <b>too slow</b>. Give it longer: `trialsync-etl schedule --timeout 9`."
    add_run(conn, "rooms", NOW, run_status="failed", error_type="JobTimedOut", error_message=said)
    text = page(take_snapshot(conn, now=NOW))
    assert "&lt;b&gt;too slow&lt;/b&gt;. Give it longer: <code>trialsync-etl schedule --timeout 9</code>." in text


def test_every_job_stands_in_the_table_and_inactive_ones_with_their_reason(snapshot: Snapshot) -> None:
    document = Document(page(snapshot))
    for job in snapshot.jobs:
        assert any(word.strip() == job.resource for word in document.words), job.resource
    assert "the API has no such endpoint" in document.text


def test_static_page_holds_its_runs_and_every_link_leads_somewhere(snapshot: Snapshot, nights: dict[str, int]) -> None:
    document = Document(page(snapshot, static=True))
    ids = {attrs["id"] for _, attrs in document.elements if attrs.get("id")}
    hrefs = {str(attrs["href"]) for attrs in document.all("a")}
    assert {f"run-{run}" for run in nights.values()} <= ids
    assert hrefs
    assert all(href.startswith("#") and href[1:] in ids for href in hrefs)


@pytest.mark.parametrize("static", [False, True])
def test_nothing_is_downloaded_and_nothing_runs(snapshot: Snapshot, static: bool) -> None:
    text = page(snapshot, static=static)
    assert not re.search(r"https?://|//[a-z]|@import|url\(|<script|javascript:|\son\w+=", text)


def test_ids_are_unique_in_the_static_page(snapshot: Snapshot) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page(snapshot, static=True))
    assert sorted(ids) == sorted(set(ids))


def test_page_can_be_read_without_eyes_and_without_a_mouse(snapshot: Snapshot) -> None:
    document = Document(page(snapshot))
    assert document.all("html")[0]["lang"] == "en"
    assert document.all("a")[0]["class"] == "skip"
    assert [tag for tag, _ in document.elements if tag == "h1"] == ["h1"]
    assert len(document.all("main")) == 1
    assert all(attrs.get("aria-label") for attrs in document.all("svg"))
    assert all(attrs.get("scope") for attrs in document.all("th"))
    assert all(attrs.get("tabindex") == "0" for attrs in document.all("code") if attrs)
    assert "outline: 3px solid" in style()
    # A status is a word and a shape, not a colour alone.
    assert "Failed" in document.words
    assert "rotate: 45deg" in style()


def test_text_from_the_database_is_escaped(conn: Conn) -> None:
    add_instance(conn)
    bad = "<script>alert(1)</script>\"'&"
    conn.execute(
        "update dw_etl_jobs set resource = %s, category = %s, inactive_reason = %s where id in (2, 4)", (bad,) * 3
    )
    conn.execute("update dw_etl_jobs set target_table = %s, schedule_cron = %s where id = 2", (bad, bad))
    conn.execute("update dw_etl_jobs set inactive_reason = %s where id = 4", (bad,))
    run = add_run(
        conn, "studies", NOW, run_status="failed", error_type=bad, error_category=bad, error_message=bad, warning=bad,
        host=bad, stages={bad: 3.0},
    )  # fmt: skip
    conn.execute(
        "insert into dw_transformation_runs (procedure_name, status, error) values (%s, 'failed', %s)", (bad, bad)
    )
    snapshot = take_snapshot(conn, now=NOW)
    found = read_run(conn, run)
    assert found is not None
    pages = [page(snapshot), page(snapshot, static=True), run_page(found, [found], [(bad, 1)], NOW, snapshot.zone)]
    for text in pages:
        assert "<script" not in text
        Document(text)


def test_run_page_tells_where_the_time_went(kept: Nights, nights: dict[str, int]) -> None:
    conn = kept.conn
    run = read_run(conn, nights["patients"])
    assert run is not None
    text = run_page(run, read_runs(conn, job_id=3), [("too long", 3)], NOW, take_snapshot(conn, now=NOW).zone)
    document = Document(text)
    for words in ("Read from the API", "Ask what differs", "Land the changes", "Merge and commit"):
        assert words in document.text
    assert "too long" in document.words
    assert len([a for a in document.all("a") if str(a["href"]).startswith("/runs/")]) == 4


def test_a_run_that_a_later_one_made_good_needs_nobody(conn: Conn) -> None:
    add_instance(conn)
    skipped = add_run(
        conn, "rooms", NOW, run_status="skipped", error_type="DependencyFailed", error_message="sites failed."
    )
    run = read_run(conn, skipped)
    assert run is not None
    alone = run_page(run, read_runs(conn, job_id=33), [], NOW, UTC)
    assert "sites failed." in alone
    assert "trialsync-etl retry --failed" in alone
    later = add_run(conn, "rooms", NOW)
    mended = run_page(run, read_runs(conn, job_id=33), [], NOW, UTC)
    assert "Mend it with" not in mended
    assert f'Nothing to mend: <a href="/runs/{later}">' in mended


def test_run_of_the_existing_system_shows_no_text_of_its_error(conn: Conn) -> None:
    add_instance(conn)
    run = read_run(conn, add_run(conn, "studies", NOW, run_status="failed", error_message="Jane", error_type=None))
    assert run is not None
    text = run_page(run, [], [], NOW, NOW.tzinfo or take_snapshot(conn).zone)
    assert "Jane" not in text
    assert "may quote data" in text


def test_good_and_empty_ledgers_have_a_page(conn: Conn) -> None:
    assert "Nothing ran in the last 24 hours" in page(take_snapshot(conn, now=NOW))
    seed_nights(conn, NOW, nights=1, trouble=False)
    text = page(take_snapshot(conn, now=NOW))
    assert "Every active job is fine" in text
    assert "every parent was asked" in text


def test_checks_are_shown_worst_first(snapshot: Snapshot) -> None:
    checks = (
        Check("fine", "error", True, 0, NOW),
        Check("orphans", "warning", False, 12, NOW),
        Check("duplicate_keys", "error", False, 3, NOW),
    )
    shown = Snapshot(snapshot.taken_at, snapshot.night, snapshot.jobs, snapshot.days, (), checks)
    text = page(shown)
    assert text.index("duplicate_keys") < text.index("orphans") < text.index("fine <small>")
    assert "2 of 3 found something" in text


def test_many_failures_do_not_bury_the_page(conn: Conn) -> None:
    seed_nights(conn, NOW, nights=1, trouble=False)
    conn.execute(
        "update dw_etl_runs set run_status = 'failed', error_type = 'ConnectionTrouble', error_category = 'api'"
    )
    text = page(take_snapshot(conn, now=NOW))
    assert "66 more</summary>" in text


def test_charts_of_nothing() -> None:
    assert sparkline([]) == ""
    assert "noted no stages" in stage_timeline({}, 3.0)
    assert "stages overlap" in stage_timeline({"read": 3.0, "merge": 3.0}, 4.0)
    assert "0 succeeded" in day_bars([Day("2026-06-10", 0, 0, 0)])


# -- contrast, computed from the style sheet's own variables


def variables(dark: bool) -> dict[str, str]:
    light, night = re.findall(r":root \{(.*?)\}", style(), re.S)
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
    return found | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", night)) if dark else found


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_contrast_is_aa(dark: bool) -> None:
    colours = variables(dark)
    text = [
        (fore, back) for fore in ("text", "muted", "accent", "ok", "bad", "warn", "run") for back in ("panel", "bg")
    ]
    text += [(tone, f"{tone}-bg") for tone in ("ok", "bad", "warn", "run", "idle")] + [("text", "code-bg")]
    for fore, back in text:
        assert contrast(colours[fore], colours[back]) >= 4.5, (fore, back)
    for drawn in ("ok", "bad", "run", "spark", "stage-read", "stage-ask", "stage-land", "stage-merge"):
        assert contrast(colours[drawn], colours["panel"]) >= 3.0, drawn


def test_contrast_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


# -- the same in a real browser


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_in_a_real_browser(snapshot: Snapshot, tmp_path: Path, width: int, dark: bool) -> None:
    file = tmp_path / "dashboard.html"
    file.write_text(page(snapshot, static=True), encoding="utf-8")
    dom = dump_dom(program(*NAMES), file, width=width, dark=dark)
    report = json.loads(dom[dom.index("REPORT{") + 6 : dom.index("}END") + 1])
    assert report["loaded"] == []
    assert report["wide"] == []
    assert report["scroll"] <= report["inner"]
    assert report["shown"] == 1  # the run whose link was followed, and no other
    colours = variables(dark)
    red, green, blue = (int(colours["bg"][place : place + 2], 16) for place in (1, 3, 5))
    assert report["back"] == f"rgb({red}, {green}, {blue})"
