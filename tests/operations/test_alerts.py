"""Somebody is told once, in few words, with the command; and a message that cannot be sent fails nothing."""

from __future__ import annotations

import email
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from email import policy
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clinical_conductor.alerts import Channels, Told, check_alerts, find_troubles, load_channels, send_test
from clinical_conductor.database import connect
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.ledger import Check, Snapshot
from clinical_conductor.settings import Settings
from tests.operations.conftest import NOW, Nights
from tests.operations.seeding import FAILURES, add_instance, add_run
from tests.operations.sinks import MailSink, WebSink, mail_sink, web_sink


@pytest.fixture
def mail() -> Iterator[MailSink]:
    with mail_sink() as sink:
        yield sink


@pytest.fixture
def web() -> Iterator[WebSink]:
    with web_sink() as sink:
        yield sink


@pytest.fixture
def own(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connect(str(settings.database), autocommit=True) as conn:
        add_instance(conn)
        yield conn


@pytest.fixture
def channels(mail: MailSink, web: WebSink) -> Channels:
    return Channels(
        email="oncall@example.com",
        smtp_url=f"smtp://127.0.0.1:{mail.port}",
        slack_webhook=f"{web.url}/hook",
        ping_url=f"{web.url}/ping",
    )


def check(settings: Settings, channels: Channels, minutes: float, **more: Any) -> Told:
    return check_alerts(settings, channels, now=NOW + timedelta(minutes=minutes), **more)


def hooks(web: WebSink) -> list[str]:
    return [json.loads(body)["text"] for _, path, body in web.got if path == "/hook"]


def pings(web: WebSink) -> list[str]:
    return [path for _, path, _ in web.got if path.startswith("/ping")]


def test_every_trouble_of_a_night_is_one_line_with_its_command(kept: Nights) -> None:
    troubles = {(trouble.kind, trouble.subject): trouble for trouble in find_troubles(kept.snapshot)}
    assert set(troubles) == {("mass_delete" if name == "rooms" else "failed", name) for name in FAILURES}
    run = kept.runs["invoices"]
    assert troubles["failed", "invoices"].title == f"invoices failed: ServerTrouble (run {run})"
    assert troubles["failed", "invoices"].command == f"trialsync-etl retry --run-id {run}"
    assert troubles["mass_delete", "rooms"].command == "trialsync-etl run --job-id 33 --allow-mass-delete"


def test_quality_errors_are_told_and_warnings_are_not(kept: Nights) -> None:
    base = kept.snapshot
    checks = (Check("orphans", "warning", False, 1, NOW), Check("keys", "error", False, 3, NOW))
    found = find_troubles(Snapshot(base.taken_at, base.night, (), base.days, (), checks))
    assert [(trouble.kind, trouble.title) for trouble in found] == [("quality", "Data quality: keys finds 3 rows")]


def test_failure_is_told_once_everywhere_and_its_recovery_too(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, mail: MailSink, web: WebSink
) -> None:
    secret = "Jane Doe"
    run = add_run(
        own,
        "invoices",
        NOW,
        run_status="failed",
        error_type="ServerTrouble",
        error_category="api",
        error_message=secret,
    )
    assert check(settings, channels, 2) == Told(1, 0, True, ())
    assert check(settings, channels, 20) == Told(0, 0, False, ())
    assert (len(mail.mails), len(hooks(web))) == (1, 1)
    sender, recipients, text = mail.mails[0]
    message = email.message_from_string(text, policy=policy.default)
    assert recipients == ["oncall@example.com"]
    assert sender == "trialsync@example.com"
    assert message["Subject"] == f"TrialSync: invoices failed: ServerTrouble (run {run})"
    part = message.get_body(("plain", "html"))
    assert part is not None
    assert f"trialsync-etl retry --run-id {run}" in part.get_content()
    assert secret not in text + hooks(web)[0]

    add_run(own, "invoices", NOW + timedelta(minutes=30), retry_of_run_id=run)
    assert check(settings, channels, 40) == Told(0, 1, True, ())
    assert check(settings, channels, 60) == Told(0, 0, False, ())
    assert hooks(web)[1].startswith(f"*TrialSync: invoices failed: ServerTrouble (run {run}) — over*")
    assert pings(web) == ["/ping/fail", "/ping/fail", "/ping", "/ping"]


def test_every_run_that_fails_is_told_and_only_the_last_recovers(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, web: WebSink
) -> None:
    for hours in (0, 24):
        add_run(own, "invoices", NOW + timedelta(hours=hours), run_status="failed", error_type="ServerTrouble")
        assert check(settings, channels, hours * 60 + 5) == Told(1, 0, True, ())
    add_run(own, "invoices", NOW + timedelta(hours=48))
    assert check(settings, channels, 48 * 60 + 5) == Told(0, 1, True, ())
    assert len(hooks(web)) == 3


def test_rate_is_limited_and_nothing_is_forgotten(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, web: WebSink
) -> None:
    for minute, resource in enumerate(("invoices", "sites", "rooms")):
        add_run(own, resource, NOW + timedelta(minutes=minute), run_status="failed", error_type="ReadTimeout")
        check(settings, channels, minute + 1)
    assert len(hooks(web)) == 1
    assert check(settings, channels, 12) == Told(2, 0, True, ())
    assert hooks(web)[1].startswith("*TrialSync: 2 troubles*")


def test_night_of_72_failures_is_one_message(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, web: WebSink
) -> None:
    own.execute(
        "insert into dw_etl_runs (job_id, source_instance_id, run_status, error_type, started_at, completed_at) "
        "select id, 1, 'failed', 'ConnectionTrouble', %s, %s from dw_etl_jobs where is_active",
        (NOW.replace(tzinfo=None), NOW.replace(tzinfo=None)),
    )
    told = check(settings, channels, 5)
    assert told.new > 70
    (text,) = hooks(web)
    assert f"and {told.new - 20} more: trialsync-etl status" in text


def test_trouble_that_is_over_before_anybody_was_told_is_never_told(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, web: WebSink
) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    web.status = 500
    silent = Channels(slack_webhook=channels.slack_webhook)
    assert check(settings, silent, 1) == Told(1, 0, False, ("Slack",))
    add_run(own, "invoices", NOW + timedelta(minutes=2))
    web.status = 200
    web.got.clear()
    assert check(settings, silent, 20) == Told(0, 0, False, ())
    assert web.got == []


def test_message_that_was_not_taken_is_sent_again(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, mail: MailSink, web: WebSink
) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    web.status, mail.refuse = 503, True
    told = check(settings, channels, 1)
    assert (told.sent, set(told.failed)) == (False, {"e-mail", "Slack", "ping"})
    web.status = 200
    told = check(settings, channels, 2)
    assert (told.sent, told.failed) == (True, ("e-mail",))
    assert len(hooks(web)) == 2


def test_stuck_and_overdue_jobs_are_told(
    settings: Settings, own: psycopg.Connection[Any], channels: Channels, web: WebSink
) -> None:
    add_run(own, "sites", NOW - timedelta(hours=1), run_status="running", heartbeat_at=NOW - timedelta(minutes=30))
    add_run(own, "rooms", NOW - timedelta(days=2))
    own.execute("update dw_etl_jobs set schedule_cron = '0 2 * * *' where id = 33")
    assert check(settings, channels, 0).new == 2
    (text,) = hooks(web)
    assert "sites is stuck" in text
    assert "rooms is overdue: 2 scheduled runs did not begin" in text


@pytest.mark.parametrize("broken", ["postgresql://nobody@127.0.0.1:1/none", "not a url"])
def test_database_that_is_away_fails_nothing_and_stops_the_ping(broken: str, channels: Channels, web: WebSink) -> None:
    assert check_alerts(Settings(database_url=broken), channels) == Told(0, 0, False, ())
    assert web.got == []


def test_nobody_to_tell_is_remembered_all_the_same(settings: Settings, own: psycopg.Connection[Any]) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    assert check(settings, Channels(), 1) == Told(1, 0, False, ())
    row = own.execute("select kind, subject, sent_at from dw_alerts").fetchall()
    assert row == [("failed", "invoices", None)]


def test_silence_pings_failure(settings: Settings, web: WebSink) -> None:
    check_alerts(settings, Channels(ping_url=f"{web.url}/ping/"), now=NOW)
    assert pings(web) == ["/ping/fail"]


def test_test_message_reaches_every_channel(channels: Channels, mail: MailSink, web: WebSink) -> None:
    assert send_test(channels) == ()
    assert "Nothing is wrong" in mail.mails[0][2]
    assert len(hooks(web)) == len(pings(web)) == 1
    mail.refuse = True
    assert send_test(channels) == ("e-mail",)
    with pytest.raises(ConfigurationError, match="ALERT_SMTP_URL"):
        send_test(Channels(email="oncall@example.com"))


def test_slack_itself_is_spoken_to_by_apprise(monkeypatch: pytest.MonkeyPatch, web: WebSink) -> None:
    from apprise.plugins.slack import NotifySlack

    monkeypatch.setattr(NotifySlack, "webhook_url", f"{web.url}/services")
    hook = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert send_test(Channels(slack_webhook=hook)) == ()
    (method, path, body) = web.got[0]
    assert (method, path) == ("POST", "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
    assert "Nothing is wrong" in body


def test_channels_come_from_the_environment_and_mistakes_are_named_without_the_address(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("ALERT_PING_URL=https://ping.example.com/abc\nALERT_SLACK_WEBHOOK=https://old.example.com\n")
    environ = {
        "ALERT_SMTP_URL": "smtps://me%40x:pw@mail.example.com:465",
        "ALERT_SLACK_WEBHOOK": "https://new.example.com",
    }
    found = load_channels(Settings(alert_email="a@example.com"), environ, dotenv=dotenv)
    assert found == Channels(
        "a@example.com", environ["ALERT_SMTP_URL"], "https://new.example.com", "https://ping.example.com/abc"
    )
    assert found.names == ("e-mail", "Slack", "ping")
    with pytest.raises(ConfigurationError, match="ALERT_SMTP_URL") as caught:
        load_channels(Settings(), {"ALERT_SMTP_URL": "mail.example.com?secret"}, dotenv=None)
    assert "secret" not in str(caught.value)


def test_login_and_encryption_of_the_mail_server_are_used() -> None:
    import apprise

    from clinical_conductor.alerts import _targets

    login = Channels(email="a@example.com", smtp_url="smtps://me%40example.org:p%2Fw@mail.example.com:465")
    ((name, url),) = _targets(login)
    mailer = apprise.Apprise.instantiate(url)
    assert name == "e-mail"
    assert (mailer.user, mailer.password, mailer.smtp_host, mailer.port) == (
        "me@example.org",
        "p/w",
        "mail.example.com",
        465,
    )
    assert (mailer.secure, mailer.secure_mode) == (True, "ssl")
    assert [address for _, address in mailer.targets] == ["a@example.com"]


def test_moment_of_an_alert_is_kept(settings: Settings, own: psycopg.Connection[Any], channels: Channels) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    check(settings, channels, 3)
    row = own.execute("select first_seen_at, sent_at from dw_alerts").fetchone()
    expected: datetime = NOW + timedelta(minutes=3)
    assert row == (expected, expected)
