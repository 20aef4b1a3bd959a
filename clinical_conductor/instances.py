"""Instances of Clinical Conductor: the rows of dw_api_credentials, and the key each is asked with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from clinical_conductor.database import Connection, translated
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.settings import Settings

REFERENCE = "env:"
"""How an api_key column says that the key is in an environment variable and not in the database."""

OWN_NAMES = ("default", "demo")
"""Instances that may be made by being asked for; every other one is a row that somebody wrote."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: its number in every row it served, where it is, and how it is asked."""

    id: int
    name: str
    base_url: str
    """From CC_API_BASE_URL for the default instance, else from its row; "" if neither says."""
    api_key_ref: str = field(repr=False)
    """The key, or `env:NAME` for the variable that holds it; see `resolve_key`."""
    key_header: str


def ensure_instance(conn: Connection, settings: Settings, name: str | None = None) -> Instance:
    """The instance of that name, or the default one; makes the row of the default and the demo instance.

    The default instance is the row named `default`, else the oldest active row that is not named `demo`. What the
    settings say about the API wins for it. Commits, unless the caller has a transaction open.

    Args:
        conn: A connection to the database.
        settings: What is known of the API from the environment.
        name: An instance_name; None for the default instance.

    Raises:
        ConfigurationError: there is no such instance, or it is switched off; the message lists those there are.
        DatabaseTrouble, DatabaseRefused: see `database.translated`.
    """
    with translated(), conn.transaction():
        if name is None:
            found = conn.execute("select dw_default_instance()").fetchone()
        else:
            found = conn.execute(
                "select id from dw_api_credentials where instance_name = %s order by is_active is false, id limit 1",
                (name,),
            ).fetchone()
            if found is None and name in OWN_NAMES:
                found = conn.execute(
                    "insert into dw_api_credentials (instance_name, base_url, api_key, is_active)"
                    " values (%s, '', 'env:CC_API_KEY', true) returning id",
                    (name,),
                ).fetchone()
        if found is None:
            known = [
                row[0] for row in conn.execute("select instance_name from dw_api_credentials order by id") if row[0]
            ]
            raise ConfigurationError(
                f"There is no instance {name!r} in dw_api_credentials; there is {', '.join(known) or 'none'}."
                " Insert a row with its instance_name, base_url and api_key (env:NAME for a variable with the key)."
            )
        conn.execute(
            "update dw_api_credentials set base_url = %s where id = %s and coalesce(base_url, '') = '' and %s <> ''",
            (settings.api_base_url, found[0], settings.api_base_url),
        )
        number, named, base_url, key, header, active = conn.execute(
            "select id, instance_name, base_url, api_key, api_key_header, is_active"
            " from dw_api_credentials where id = %s",
            found,
        ).fetchall()[0]
    if active is False and name is not None:
        raise ConfigurationError(
            f"Instance {name!r} is switched off (is_active in dw_api_credentials). Switch it on first."
        )
    if name is None or name in OWN_NAMES:
        base_url, key = settings.api_base_url or base_url, settings.api_key or key
    return Instance(number, named or str(number), base_url or "", key or "", header or settings.api_key_header)


def scheduled_instances(conn: Connection) -> dict[str | None, int | None]:
    """The instances whose jobs run by their schedules: every active one but the demo's, the default one first.

    Returns:
        The name a run is given (None: the default instance, which needs none), and the number of its row; None while
        there is no row at all, since the first run makes it.

    Raises:
        DatabaseTrouble, DatabaseRefused: see `database.translated`.
    """
    with translated(), conn.transaction():
        rows = conn.execute(
            "select id, instance_name, is_active is not false from dw_api_credentials"
            " where instance_name is distinct from 'demo'"
            # As dw_default_instance() orders them: the first one is what a run without a name means.
            " order by instance_name is not distinct from 'default' desc,"
            " instance_name is distinct from 'default' and is_active is false, id"
        ).fetchall()
    if not rows:
        return {None: None}
    found: dict[str | None, int | None] = {}
    for place, (number, name, active) in enumerate(rows):
        if active and (place == 0 or name):
            found.setdefault(name if place else None, number)
    return found


def resolve_key(reference: str, environ: Mapping[str, str] | None = None) -> str:
    """The key itself: `env:NAME` is looked up, everything else is the key.

    Raises:
        ConfigurationError: the variable is not set.
    """
    if not reference.startswith(REFERENCE):
        return reference
    variable = reference.removeprefix(REFERENCE).strip()
    key = (os.environ if environ is None else environ).get(variable, "").strip()
    if not key:
        raise ConfigurationError(
            f"The instance's key is said to be in the environment variable {variable}, which is not set. Set it, or"
            " correct api_key in dw_api_credentials."
        )
    return key
