"""By what somebody is told: e-mail, Slack and a dead-man switch, as ALERT_* say. Nothing here raises for a channel.

E-mail and Slack itself go through apprise, which the extra `serve` brings and which is imported when it is needed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from importlib.util import find_spec
from urllib.parse import quote, unquote, urlsplit

import requests

from clinical_conductor.errors import ConfigurationError
from clinical_conductor.logs import get_logger
from clinical_conductor.settings import Settings

TIMEOUT_SECONDS = 10

log = get_logger(__name__)


def send(settings: Settings, title: str, body: str) -> tuple[str, ...]:
    """Send a message to every channel; the names of those that did not take it. Raises nothing."""
    failed = []
    installed = find_spec("apprise") is not None
    for name, url in _targets(settings):
        if not installed and not _is_plain(url):
            failed.append(name)
        elif not _notify(url, title, body):
            log.warning("an alert could not be sent", channel=name)
            failed.append(name)
    return tuple(failed)


def send_test(settings: Settings) -> tuple[str, ...]:
    """Send a message that says it is a test to every channel, the ping included; the names of those that failed.

    Raises:
        ConfigurationError: no channel is set.
    """
    if not settings.alert_channels:
        raise ConfigurationError(
            "Nobody would be told: set ALERT_EMAIL with ALERT_SMTP_URL, ALERT_SLACK_WEBHOOK, or ALERT_PING_URL."
        )
    failed = send(settings, "TrialSync: a test", "This is a test of the alerts. Nothing is wrong.")
    if settings.alert_ping_url and not ping(settings.alert_ping_url, well=True):
        failed = (*failed, "ping")
    return failed


def _targets(settings: Settings) -> Iterable[tuple[str, str]]:
    """The channels as apprise's addresses."""
    if "e-mail" in settings.alert_channels:
        parts = urlsplit(settings.alert_smtp_url)
        scheme = "mailtos" if parts.scheme == "smtps" else "mailto"
        login = ""
        if parts.username:
            login = f"{quote(unquote(parts.username), safe='')}:{quote(unquote(parts.password or ''), safe='')}@"
        port = f":{parts.port}" if parts.port else ""
        sender = unquote(parts.username or "")
        if "@" not in sender:
            sender = f"trialsync@{settings.alert_email.rpartition('@')[2]}"
        query = f"smtp={parts.hostname}&from={quote(sender, safe='@')}&to={quote(settings.alert_email, safe='@')}"
        mode = "&mode=ssl" if scheme == "mailtos" else ""
        yield "e-mail", f"{scheme}://{login}{parts.hostname}{port}?{query}{mode}&name=TrialSync"
    if "Slack" in settings.alert_channels:
        yield "Slack", settings.alert_slack_webhook


def lacks_apprise(settings: Settings) -> bool:
    """Whether a channel needs apprise, and it is not installed; the ping and webhooks like Slack's do without."""
    return find_spec("apprise") is None and any(not _is_plain(url) for _, url in _targets(settings))


def _is_plain(url: str) -> bool:
    """Whether it is a webhook that speaks Slack's language without being Slack (Mattermost, a relay in the house)."""
    return urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname != "hooks.slack.com"


def _notify(url: str, title: str, body: str) -> bool:
    """One message to one channel."""
    try:
        if _is_plain(url):
            answer = requests.post(
                url, json={"text": f"*{title}*\n{body}"}, timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
            return answer.status_code < 300
        import apprise

        # apprise's log lines quote addresses, which are secrets.
        logging.getLogger("apprise").setLevel(logging.CRITICAL)
        channel = apprise.Apprise()
        return bool(channel.add(url)) and bool(
            channel.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
        )
    except Exception as error:  # noqa: BLE001 (whatever a channel does, the job goes on)
        log.warning("an alert could not be sent", error_type=type(error).__name__)
        return False


def ping(url: str, *, well: bool) -> bool:
    """Tell the dead-man switch that we live, or that the night was bad (the /fail of healthchecks.io and others)."""
    with contextlib.suppress(requests.RequestException):
        target = url if well else url.rstrip("/") + "/fail"
        return requests.get(target, timeout=TIMEOUT_SECONDS, allow_redirects=False).status_code < 300
    log.warning("the dead-man switch could not be pinged")
    return False
