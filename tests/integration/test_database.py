"""Connections say clearly what is wrong, and the embedded server survives whatever happens around it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from shutil import copytree

import psycopg
import pytest

from clinical_conductor import database as db
from clinical_conductor import embedded
from clinical_conductor.embedded import EmbeddedServer
from clinical_conductor.errors import ConfigurationError, DatabaseFull, DatabaseRefused, DatabaseTrouble
from clinical_conductor.instances import Instance, ensure_instance, resolve_key
from clinical_conductor.settings import Settings
from tests.fixtures.postgres import FORGETFUL, VERSION

BASE_URL = "https://ccs.example.com/CCSWEB"

# -- connections -------------------------------------------------------------------------------------------------------


def test_a_connection_is_in_utc_and_says_who_it_is(empty_database: str) -> None:
    with db.connect(empty_database, name="trialsync tests") as conn:
        row = conn.execute(
            "select current_setting('timezone'), current_setting('search_path'), current_setting('application_name')"
        ).fetchone()
        assert row == ("UTC", "public", "trialsync tests")
        assert not conn.autocommit
    with db.connect(empty_database, autocommit=True) as conn:
        assert conn.autocommit


def test_a_server_that_is_too_old_is_refused(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "OLDEST_SERVER", 99)
    with pytest.raises(DatabaseRefused, match="version 99 or later"):
        db.connect(empty_database)


def test_what_keeps_a_connection_from_being_made(empty_database: str) -> None:
    address = empty_database.split("@")[1]
    with pytest.raises(DatabaseRefused, match="refused the login"):
        db.connect(f"postgresql://trialsync:wrong@{address}")
    with pytest.raises(DatabaseRefused, match="wants a password"):
        db.connect(f"postgresql://trialsync@{address}")
    with pytest.raises(DatabaseRefused, match='database "nowhere" does not exist'):
        db.connect(empty_database.rsplit("/", 1)[0] + "/nowhere")
    with pytest.raises(DatabaseTrouble, match="cannot be reached"):
        db.connect("postgresql://trialsync:hidden@127.0.0.1:1/x")
    with pytest.raises(ConfigurationError, match="DATABASE_URL cannot be read") as caught:
        db.connect("postgresql://u:hidden@[bad/x")
    assert "hidden" not in str(caught.value)


def test_a_database_that_cannot_hold_every_record_is_refused(empty_database: str) -> None:
    with db.connect(empty_database, autocommit=True) as conn:
        conn.execute("create database ascii_only encoding 'SQL_ASCII' template template0 locale 'C'")
        try:
            with pytest.raises(DatabaseRefused, match=r"encoding is SQL_ASCII.*UTF8 is needed"):
                db.connect(empty_database.rsplit("/", 1)[0] + "/ascii_only")
        finally:
            conn.execute("drop database ascii_only")


@pytest.mark.parametrize(
    ("answers", "shared"),
    [
        ([1, 1], True),  # the second connection got the first one's server
        ([2, 2], True),  # the first one came back on another
        ([2, 1, 2, 1, 2, 1], False),  # a server each, every time: session mode
        ([None, 1, None, 1, None, 1], False),  # no server left for a second one: session mode with a pool of one
    ],
)
def test_a_pooler_in_transaction_mode_is_known_by_the_servers_it_hands_out(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, answers: list[int | None], shared: bool
) -> None:
    given = iter(answers)
    monkeypatch.setattr(db, "_backend", lambda conn, seconds: next(given))
    with db.connect(empty_database) as conn:
        assert db._shares_servers(conn, 1, empty_database) is shared


def test_the_backend_is_asked_without_waiting_for_ever(empty_database: str) -> None:
    with closing(db.connect(empty_database, autocommit=True)) as conn:
        assert db._backend(conn, seconds=5) == conn.info.backend_pid
        os.kill(conn.info.backend_pid, signal.SIGSTOP)
        try:
            assert db._backend(conn, seconds=0.1) is None
        finally:
            os.kill(conn.info.backend_pid, signal.SIGCONT)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_errors_name_the_constraint_and_never_the_row(empty_database: str) -> None:
    with db.connect(empty_database, autocommit=True) as conn:
        conn.execute("create table people (name text constraint people_once unique, born date not null)")
        conn.execute("insert into people values ('Secret Person', '1970-01-01')")
        for statement, expected in {
            "insert into people values ('Secret Person', '1970-01-01')": "people_once",
            "insert into people values ('Secret Person 2', null)": "23502",
            "select 'Secret Person'::date": "22007: invalid input syntax for type date",
            "select 'Secret Person'::jsonb": "22P02: invalid input syntax for type json",
            "select 'Secret' || (1 / 0)": "22012: division by zero",
            "select secret_column from people": "42703",
        }.items():
            with pytest.raises(DatabaseRefused) as caught, db.translated():
                conn.execute(statement)
            assert expected in str(caught.value)
            assert "Secret" not in str(caught.value)
            assert caught.value.__cause__ is None


def test_a_full_disk_has_a_name_of_its_own(empty_database: str) -> None:
    with db.connect(empty_database, autocommit=True) as conn:
        with pytest.raises(DatabaseFull, match=r"53100: no room.+ on the database's disk"), db.translated():
            conn.execute("do $$ begin raise 'no room' using errcode = '53100'; end $$")
        with (
            pytest.raises(DatabaseRefused, match=r"53300: too many.+ the server's limit") as caught,
            db.translated(),
        ):
            conn.execute("do $$ begin raise 'too many' using errcode = '53300'; end $$")
        assert not isinstance(caught.value, DatabaseFull)


def test_a_lost_connection_and_a_deadlock_may_be_tried_again(empty_database: str) -> None:
    with db.connect(empty_database, autocommit=True) as killer:
        conn = db.connect(empty_database)
        killer.execute("select pg_terminate_backend(%s)", (conn.info.backend_pid,))
        with pytest.raises(DatabaseTrouble), db.translated():
            conn.execute("select 1")
        with pytest.raises(DatabaseTrouble, match="connection"), db.translated():
            conn.execute("select 1")
        conn.close()

    with db.connect(empty_database) as one, db.connect(empty_database) as two, ThreadPoolExecutor(1) as pool:
        two.execute("set deadlock_timeout = '10s'")  # the other one is the victim
        two.commit()
        one.execute("set deadlock_timeout = '50ms'; select pg_advisory_xact_lock(1)")
        two.execute("select pg_advisory_xact_lock(2)")
        other = pool.submit(two.execute, "select pg_advisory_xact_lock(1)")
        with pytest.raises(DatabaseTrouble, match="40P01"), db.translated():
            one.execute("select pg_advisory_xact_lock(2)")
        one.rollback()
        other.result()


# -- the embedded server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directory of a cluster that this module's tests start, stop and kill. Nobody else may enter the one above it."""
    above = tmp_path_factory.mktemp("private")
    above.chmod(0o700)
    yield above / "postgres"
    EmbeddedServer(above / "postgres", VERSION).stop()


@pytest.fixture
def server(home: Path) -> EmbeddedServer:
    return EmbeddedServer(home, VERSION, FORGETFUL)


def one(url: str, query: str) -> object:
    """The first value of a query's first row."""
    with psycopg.connect(url) as conn:
        row = conn.execute(query).fetchone()
        return None if row is None else row[0]


def postmaster(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().splitlines()[0])


def test_without_its_programs_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "BINARIES", {VERSION: ()})
    with pytest.raises(ConfigurationError, match="embedded PostgreSQL is not installed"):
        EmbeddedServer(tmp_path / "home" / "postgres", VERSION).start()
    assert not (tmp_path / "home").exists()


def test_it_starts_for_itself_alone_with_a_password(server: EmbeddedServer) -> None:
    url = server.start()
    assert url.startswith("postgresql://trialsync:")
    assert "@127.0.0.1:" in url
    assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
    assert one(url, "show listen_addresses") == "127.0.0.1"
    assert one(url, "select current_database()") == "trialsync"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(url.replace(url.split(":")[2].split("@")[0], "guess"))


def test_it_keeps_its_promises_of_durability_unless_told_otherwise(tmp_path: Path) -> None:
    plain = EmbeddedServer(tmp_path / "postgres", VERSION)
    try:
        url = plain.start()
        assert [one(url, f"show {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")] == ["on"] * 3
    finally:
        plain.stop()


def test_programs_and_data_may_lie_below_a_home_that_nobody_else_may_enter(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root's clone and venv do below /root; the server runs as another user there."""
    package = server.programs.parents[1]
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / package.name).mkdir()
    (private / package.name / "__init__.py").touch()
    copytree(server.programs.parent, private / package.name / server.programs.parent.name)
    if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
        copytree(libraries, private / libraries.name)
    monkeypatch.syspath_prepend(private)
    hidden = EmbeddedServer(private / "postgres", VERSION, FORGETFUL)
    try:
        assert hidden.programs.is_relative_to(private)
        assert one(hidden.start(), "select 1") == 1
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    finally:
        hidden.stop()


def test_a_running_server_is_used_again(server: EmbeddedServer, home: Path) -> None:
    url, pid = server.start(), postmaster(home)
    started = time.monotonic()
    assert EmbeddedServer(home, VERSION).start() == url
    assert time.monotonic() - started < 5
    assert postmaster(home) == pid


def test_two_starters_get_one_server(server: EmbeddedServer, home: Path) -> None:
    server.stop()
    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(lambda _: EmbeddedServer(home, VERSION, FORGETFUL).start(), range(4)))
    assert len(urls) == 1


def test_it_survives_the_kill_of_the_process_that_started_it(server: EmbeddedServer, home: Path) -> None:
    server.stop()
    script = (
        "import sys, time, pathlib; from clinical_conductor.embedded import EmbeddedServer;"
        f"print(EmbeddedServer(pathlib.Path({str(home)!r}), {VERSION!r}).start(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        url = starter.stdout.readline().strip()
        os.kill(starter.pid, signal.SIGKILL)
    assert one(url, "select 1") == 1
    assert server.start() == url


def test_committed_rows_survive_the_kill_of_the_server(server: EmbeddedServer, home: Path) -> None:
    url = server.start()
    with psycopg.connect(url) as conn:
        conn.execute("create table if not exists kept (a integer)")
        conn.execute("truncate kept; insert into kept select generate_series(1, 1000)")
    os.kill(postmaster(home), signal.SIGKILL)
    again = EmbeddedServer(home, VERSION, FORGETFUL).start()
    assert one(again, "select count(*) from kept") == 1000


def test_a_pid_file_that_names_another_process_is_not_believed(server: EmbeddedServer, home: Path) -> None:
    """After a reboot the number in the file may belong to anything, this very process for one."""
    server.start()
    text = (home / "data" / "postmaster.pid").read_text()
    server.stop()
    (home / "data" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *text.splitlines()[1:]]))
    assert one(server.start(), "select 1") == 1
    assert postmaster(home) != os.getpid()


def test_a_taken_port_is_not_insisted_on(server: EmbeddedServer, home: Path) -> None:
    server.start()
    port = int((home / "port").read_text())
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        assert f":{port}/" not in server.start()
        server.stop()


def test_it_stops_and_knows_that_it_has(server: EmbeddedServer, home: Path) -> None:
    server.start()
    assert server.stop()
    assert not server.stop()
    assert not (home / "data" / "postmaster.pid").exists()


def test_its_log_holds_no_statement_and_no_value(server: EmbeddedServer) -> None:
    with psycopg.connect(server.start(), autocommit=True) as conn, pytest.raises(psycopg.Error):
        conn.execute("select 'Secret Person'::date")
    assert "Secret" not in server.log.read_text()


def test_data_of_another_version_and_a_lost_password_are_explained(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("13\n")
    with pytest.raises(DatabaseRefused, match="made by PostgreSQL 13"):
        EmbeddedServer(tmp_path).start()
    (tmp_path / "data" / "PG_VERSION").write_text("18\n")
    with pytest.raises(ConfigurationError, match="password is gone"):
        EmbeddedServer(tmp_path).start()


def test_a_missing_wheel_and_an_unreachable_place_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "BINARIES", {"18": (("no_such_wheel", "bin"),)})
    with pytest.raises(ConfigurationError, match=r"pip install 'trialsync\[embedded\]'"):
        EmbeddedServer(tmp_path / "postgres").start()
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *_: None)
    monkeypatch.setattr(embedded, "_ways_to_run", lambda owner: iter([("false",)]))
    with pytest.raises(ConfigurationError, match="refuses to run as root"):
        EmbeddedServer(tmp_path / "postgres").start()


def test_a_configured_database_outranks_the_embedded_one(tmp_path: Path) -> None:
    url = "postgresql://somebody@db.example.com/trialsync"
    assert db.database_url(Settings(database_url=url, work_dir=tmp_path)) == url
    assert db.embedded(Settings(work_dir=tmp_path)).home == tmp_path / "postgres"
    assert not db.stop_embedded(Settings(work_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


# -- instances ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def conn(database: str) -> Iterator[db.Connection]:
    with db.connect(database) as opened:
        yield opened


def add_instance(conn: db.Connection, name: str | None, key: str = "env:KEY", active: bool = True) -> int:
    row = conn.execute(
        "insert into dw_api_credentials (instance_name, base_url, api_key, is_active)"
        " values (%s, %s, %s, %s) returning id",
        (name, f"{BASE_URL}/{name}", key, active),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_first_start_makes_the_default_instance_and_stores_no_key(conn: db.Connection) -> None:
    settings = Settings(api_base_url=BASE_URL, api_key="not-a-real-key")
    instance = ensure_instance(conn, settings, None)
    assert instance == Instance(instance.id, "default", BASE_URL, "not-a-real-key", "X-ApiKey")
    assert "not-a-real-key" not in repr(instance)
    assert ensure_instance(conn, settings, None) == instance
    rows = conn.execute("select instance_name, base_url, api_key from dw_api_credentials").fetchall()
    assert rows == [("default", BASE_URL, "env:CC_API_KEY")]


def test_the_default_is_the_row_of_that_name_else_the_oldest_active_one_that_is_no_demo(conn: db.Connection) -> None:
    add_instance(conn, "retired", active=False)
    add_instance(conn, "demo")
    west = add_instance(conn, "west", key="not-a-real-key")
    add_instance(conn, "east")
    assert ensure_instance(conn, Settings()) == Instance(west, "west", f"{BASE_URL}/west", "not-a-real-key", "X-ApiKey")
    named = add_instance(conn, "default")
    assert ensure_instance(conn, Settings()).id == named


def test_a_named_instance_is_asked_as_its_row_says(conn: db.Connection) -> None:
    east = add_instance(conn, "east", key="env:CC_KEY_EAST")
    conn.execute("update dw_api_credentials set api_key_header = 'CCAPIKey'")
    settings = Settings(api_base_url="https://other.example.com/CCSWEB", api_key="other")
    assert ensure_instance(conn, settings, "east") == Instance(
        east, "east", f"{BASE_URL}/east", "env:CC_KEY_EAST", "CCAPIKey"
    )
    assert ensure_instance(conn, settings, "demo").base_url == "https://other.example.com/CCSWEB"
    with pytest.raises(ConfigurationError, match="no instance 'esat' in dw_api_credentials; there is east, demo"):
        ensure_instance(conn, settings, "esat")
    conn.execute("update dw_api_credentials set is_active = false where id = %s", (east,))
    with pytest.raises(ConfigurationError, match="switched off"):
        ensure_instance(conn, settings, "east")


def test_keys_are_looked_up_where_they_are_said_to_be() -> None:
    assert resolve_key("not-a-real-key") == "not-a-real-key"
    assert resolve_key("env:CC_KEY_EAST", {"CC_KEY_EAST": " not-a-real-key "}) == "not-a-real-key"
    with pytest.raises(ConfigurationError, match="CC_KEY_EAST, which is not set"):
        resolve_key("env:CC_KEY_EAST", {})
