"""Somebody is told once, in few words, with the command; and a message that cannot be sent fails nothing."""

from __future__ import annotations

import email
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import policy
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clinical_conductor.alerts import MARK, QUIET_SECONDS, Told, check_alerts, find_troubles
from clinical_conductor.channels import send_test
from clinical_conductor.database import connect
from clinical_conductor.errors import ConfigurationError, DatabaseTrouble, WorkspaceTrouble
from clinical_conductor.ledger import Check, Snapshot
from clinical_conductor.settings import Settings, load_settings
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
def alerting(settings: Settings, mail: MailSink, web: WebSink) -> Settings:
    """Settings with every channel."""
    return replace(
        settings,
        alert_email="oncall@example.com",
        alert_smtp_url=f"smtp://127.0.0.1:{mail.port}",
        alert_slack_webhook=f"{web.url}/hook",
        alert_ping_url=f"{web.url}/ping",
    )


def check(settings: Settings, minutes: float, **more: Any) -> Told:
    return check_alerts(settings, now=NOW + timedelta(minutes=minutes), **more)


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
    alerting: Settings, own: psycopg.Connection[Any], mail: MailSink, web: WebSink
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
    assert check(alerting, 2) == Told(1, 0, True, ())
    assert check(alerting, 20) == Told(0, 0, False, ())
    assert (len(mail.mails), len(hooks(web))) == (1, 1)
    sender, recipients, text = mail.mails[0]
    message = email.message_from_string(text, policy=policy.default)
    assert recipients == ["oncall@example.com"]
    assert sender == "trialsync@example.com"
    assert message["Subject"] == f"TrialSync: invoices failed: ServerTrouble (run {run})"
    part = message.get_body(("plain", "html"))
    assert part is not None
    expected = f"""invoices failed: ServerTrouble (run {run})
    The API had trouble of its own. Nothing is lost; run it again.
    trialsync-etl retry --run-id {run}

The last 24 hours: 1 failed of 74 jobs."""
    assert part.get_content().split("\r\n")[:-1] == expected.splitlines()
    assert hooks(web)[0] == f"*{message['Subject']}*\n{expected}"
    assert secret not in text + hooks(web)[0]

    add_run(own, "invoices", NOW + timedelta(minutes=30), retry_of_run_id=run)
    assert check(alerting, 40) == Told(0, 1, True, ())
    assert check(alerting, 60) == Told(0, 0, False, ())
    assert hooks(web)[1].startswith(f"*TrialSync: over: invoices failed: ServerTrouble (run {run})*")
    assert pings(web) == ["/ping/fail", "/ping/fail", "/ping", "/ping"]


def test_every_run_that_fails_is_told_and_only_the_last_recovers(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    for hours in (0, 24):
        add_run(own, "invoices", NOW + timedelta(hours=hours), run_status="failed", error_type="ServerTrouble")
        assert check(alerting, hours * 60 + 5) == Told(1, 0, True, ())
    add_run(own, "invoices", NOW + timedelta(hours=48))
    assert check(alerting, 48 * 60 + 5) == Told(0, 1, True, ())
    assert len(hooks(web)) == 3


def test_one_who_looks_again_soon_waits_and_nothing_is_forgotten(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    for minute, resource in enumerate(("invoices", "sites", "rooms")):
        add_run(own, resource, NOW + timedelta(minutes=minute), run_status="failed", error_type="ReadTimeout")
        check(alerting, minute + 1, quiet_seconds=QUIET_SECONDS)
    assert len(hooks(web)) == 1
    assert check(alerting, 12, quiet_seconds=QUIET_SECONDS) == Told(2, 0, True, ())
    assert hooks(web)[1].startswith("*TrialSync: 2 jobs failed: ReadTimeout*")


def test_no_more_than_six_messages_an_hour_go_out_and_nothing_is_forgotten(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    resources = ("invoices", "sites", "rooms", "staff", "elements", "monitors", "sponsors", "providers")
    for minute, resource in enumerate(resources):
        add_run(own, resource, NOW + timedelta(minutes=minute), run_status="failed", error_type="ReadTimeout")
        check(alerting, minute + 1)
    assert len(hooks(web)) == 6
    assert check(alerting, 62) == Told(2, 0, True, ())
    assert "providers, sponsors" in hooks(web)[6]


def test_a_night_of_many_failures_is_one_message_of_few_lines(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    own.execute(
        "insert into dw_etl_runs (job_id, source_instance_id, run_status, error_type, started_at, completed_at) "
        "select id, 1, 'failed', case when id = 33 then 'MassDelete' else 'ConnectionTrouble' end, %s, %s "
        "from dw_etl_jobs where is_active",
        (NOW.replace(tzinfo=None), NOW.replace(tzinfo=None)),
    )
    assert check(alerting, 5).new == 74
    (text,) = hooks(web)
    lines = text.splitlines()
    assert lines[0] == "*TrialSync: 74 troubles: sites, studies, patients and 71 more*"
    assert lines[1] == "73 jobs failed: ConnectionTrouble"
    assert lines[2].endswith(" and 53 more")
    assert lines[4] == "    trialsync-etl retry --failed"
    assert "    trialsync-etl run --job-id 33 --allow-mass-delete" in lines
    assert len(lines) == 11


def test_trouble_that_is_over_before_anybody_was_told_is_never_told(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    web.status = 500
    silent = replace(alerting, alert_email="", alert_ping_url="")
    assert check(silent, 1) == Told(1, 0, False, ("Slack",))
    add_run(own, "invoices", NOW + timedelta(minutes=2))
    web.status = 200
    web.got.clear()
    assert check(silent, 20) == Told(0, 0, False, ())
    assert web.got == []


def test_a_job_that_fails_again_before_anybody_was_told_is_told_at_once(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    assert check(replace(alerting, alert_email="", alert_slack_webhook=""), 1).sent is False
    run = add_run(own, "invoices", NOW + timedelta(minutes=2), run_status="failed", error_type="ReadTimeout")
    assert check(alerting, 3, quiet_seconds=QUIET_SECONDS) == Told(1, 0, True, ())
    assert f"(run {run})" in hooks(web)[0]


def test_message_that_was_not_taken_is_sent_again(
    alerting: Settings, own: psycopg.Connection[Any], mail: MailSink, web: WebSink
) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    web.status, mail.refuse = 503, True
    told = check(alerting, 1)
    assert (told.sent, set(told.failed)) == (False, {"e-mail", "Slack", "ping"})
    web.status = 200
    told = check(alerting, 2)
    assert (told.sent, told.failed) == (True, ("e-mail",))
    assert len(hooks(web)) == 2


def test_stuck_and_overdue_jobs_are_told(alerting: Settings, own: psycopg.Connection[Any], web: WebSink) -> None:
    add_run(own, "sites", NOW - timedelta(hours=1), run_status="running", heartbeat_at=NOW - timedelta(minutes=30))
    add_run(own, "rooms", NOW - timedelta(days=2))
    own.execute("update dw_etl_jobs set schedule_cron = '0 2 * * *' where id = 33")
    assert check(alerting, 0).new == 2
    (text,) = hooks(web)
    assert "sites is stuck" in text
    assert "rooms is overdue: 2 scheduled runs did not begin" in text


def test_a_database_that_is_away_is_told_once_and_so_is_its_return(
    alerting: Settings, own: psycopg.Connection[Any], mail: MailSink, web: WebSink
) -> None:
    away = replace(alerting, database_url="postgresql://nobody:hunter2@127.0.0.1:1/none")
    assert check_alerts(away) == Told(1, 0, True, ())
    assert check_alerts(away) == Told(1, 0, False, ())
    assert hooks(web) == [
        "*TrialSync: the database cannot be reached*\n"
        "the database cannot be reached\n"
        "    What was committed is safe. Mend that first; the doctor tells more.\n"
        "    trialsync-etl doctor\n\n"
        "Then:\n"
        "    trialsync-etl run"
    ]
    assert "hunter2" not in str(mail.mails) + str(web.got)
    add_run(own, "invoices", datetime.now(UTC))
    assert check_alerts(alerting) == Told(0, 1, True, ())
    assert check_alerts(alerting) == Told(0, 0, False, ())
    assert hooks(web)[1].startswith("*TrialSync: over: The database could not be used*")
    assert pings(web) == ["/ping/fail", "/ping/fail", "/ping", "/ping"]


def test_who_looks_again_soon_tells_of_a_database_at_the_second_look(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    away = replace(alerting, database_url="postgresql://nobody@127.0.0.1:1/none")
    assert check_alerts(away, quiet_seconds=QUIET_SECONDS) == Told(1, 0, False, ())
    assert check_alerts(alerting, quiet_seconds=QUIET_SECONDS) == Told(0, 0, False, ())  # it had only restarted
    assert hooks(web) == []
    for _ in range(3):
        check_alerts(away, quiet_seconds=QUIET_SECONDS)
    assert len(hooks(web)) == 1
    assert check_alerts(alerting) == Told(0, 1, True, ())


def test_a_database_that_stays_away_is_told_again_after_half_a_day(alerting: Settings, web: WebSink) -> None:
    away = replace(alerting, database_url="postgresql://nobody@127.0.0.1:1/none")
    for hours, messages in ((0, 1), (11, 1), (13, 2)):
        check_alerts(away, now=datetime.now(UTC) + timedelta(hours=hours))
        assert len(hooks(web)) == messages


def test_a_ledger_that_can_be_read_and_not_written_is_told_with_its_troubles(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink
) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="DatabaseFull")
    own.execute(
        """
        create function no_room() returns trigger language plpgsql as
        $$ begin raise 'could not extend file "base/1/2"' using errcode = '53100'; end $$;
        create trigger full_disk before insert or update on dw_alerts for each row execute function no_room();
        """
    )
    assert check(alerting, 1) == Told(1, 0, True, ())
    assert check(alerting, 2) == Told(1, 0, False, ())
    (text,) = hooks(web)
    assert text.startswith("*TrialSync: the disk of the database is full*")
    assert "invoices failed: DatabaseFull" in text
    assert "base/1/2" not in text
    own.execute("drop trigger full_disk on dw_alerts")
    add_run(own, "invoices", NOW + timedelta(minutes=3))
    assert check(alerting, 4) == Told(0, 1, True, ())


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (DatabaseTrouble("x"), "no job could run: the database cannot be reached"),
        (WorkspaceTrouble("x"), "no job could run: WorkspaceTrouble"),
        (RuntimeError("Jane Doe"), "no job could run: RuntimeError"),
    ],
)
def test_a_run_that_could_not_begin_is_told_though_the_ledger_knows_nothing(
    alerting: Settings, own: psycopg.Connection[Any], web: WebSink, error: Exception, says: str
) -> None:
    assert check_alerts(alerting, unstarted=error).sent
    (text,) = hooks(web)
    assert text.startswith(f"*TrialSync: {says}*")
    assert "Jane" not in text
    assert text.endswith("trialsync-etl run")
    assert pings(web) == ["/ping/fail"]


def test_a_mark_that_cannot_be_made_costs_nothing_but_silence(alerting: Settings, tmp_path: Path, web: WebSink) -> None:
    (tmp_path / "file").touch()
    away = replace(alerting, database_url="postgresql://nobody@127.0.0.1:1/none", work_dir=tmp_path / "file")
    for _ in range(2):
        assert check_alerts(away) == Told(1, 0, True, ())
    assert not (tmp_path / MARK).exists()


def test_a_wrong_database_url_is_not_an_alert(alerting: Settings, web: WebSink) -> None:
    assert check_alerts(replace(alerting, database_url="not a url")) == Told(1, 0, False, ())
    assert hooks(web) == []


def test_nobody_to_tell_is_remembered_all_the_same(settings: Settings, own: psycopg.Connection[Any]) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    assert check(settings, 1) == Told(1, 0, False, ())
    row = own.execute("select kind, subject, sent_at from dw_alerts").fetchall()
    assert row == [("failed", "invoices", None)]


def test_silence_pings_failure(settings: Settings, web: WebSink) -> None:
    check_alerts(replace(settings, alert_ping_url=f"{web.url}/ping/"), now=NOW)
    assert pings(web) == ["/ping/fail"]


def test_test_message_reaches_every_channel(alerting: Settings, mail: MailSink, web: WebSink) -> None:
    assert send_test(alerting) == ()
    assert "Nothing is wrong" in mail.mails[0][2]
    assert len(hooks(web)) == len(pings(web)) == 1
    mail.refuse = True
    assert send_test(alerting) == ("e-mail",)
    with pytest.raises(ConfigurationError, match="ALERT_SMTP_URL"):
        send_test(Settings(alert_email="oncall@example.com"))


def test_slack_itself_is_spoken_to_by_apprise(monkeypatch: pytest.MonkeyPatch, web: WebSink) -> None:
    from apprise.plugins.slack import NotifySlack

    monkeypatch.setattr(NotifySlack, "webhook_url", f"{web.url}/services")
    hook = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert send_test(Settings(alert_slack_webhook=hook)) == ()
    (method, path, body) = web.got[0]
    assert (method, path) == ("POST", "/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ")
    assert "Nothing is wrong" in body


def test_channels_come_from_the_environment_and_mistakes_are_named_without_the_address(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("ALERT_PING_URL=https://ping.example.com/abc\nALERT_SLACK_WEBHOOK=https://old.example.com\n")
    environ = {
        "ALERT_EMAIL": "a@example.com",
        "ALERT_SMTP_URL": "smtps://me%40x:pw@mail.example.com:465",
        "ALERT_SLACK_WEBHOOK": "https://new.example.com",
    }
    found = load_settings(environ, dotenv=dotenv)
    assert (found.alert_slack_webhook, found.alert_ping_url) == (
        "https://new.example.com",
        "https://ping.example.com/abc",
    )
    assert found.alert_channels == ("e-mail", "Slack", "ping")
    assert not [text for text in ("pw@", "new.example.com", "/abc") if text in repr(found)]
    assert load_settings({"ALERT_EMAIL": "a@example.com"}, dotenv=None).alert_channels == ()
    with pytest.raises(ConfigurationError, match="ALERT_SMTP_URL") as caught:
        load_settings({"ALERT_SMTP_URL": "mail.example.com?secret"}, dotenv=None)
    assert "secret" not in str(caught.value)


def test_login_and_encryption_of_the_mail_server_are_used() -> None:
    import apprise

    from clinical_conductor.channels import _targets

    login = Settings(alert_email="a@example.com", alert_smtp_url="smtps://me%40example.org:p%2Fw@mail.example.com:465")
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


def test_moment_of_an_alert_is_kept(alerting: Settings, own: psycopg.Connection[Any]) -> None:
    add_run(own, "invoices", NOW, run_status="failed", error_type="ReadTimeout")
    check(alerting, 3)
    row = own.execute("select first_seen_at, sent_at from dw_alerts").fetchone()
    expected: datetime = NOW + timedelta(minutes=3)
    assert row == (expected, expected)
