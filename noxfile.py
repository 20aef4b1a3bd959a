"""Sessions: `nox -l` lists them, `nox` runs lint, typing and tests. Each makes its own environment, with pip.

`nox --no-venv -s lint` uses the environment that is active instead (how .ci/run calls it).
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "typing", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

PYTHON = ["clinical_conductor", "pipelines", "tests", "benchmarks", "notebooks", "noxfile.py", ".ci"]


def install(session: nox.Session, extra: str = "dev") -> None:
    """Install the project as users do, unless the session runs in an environment that is not its own."""
    if session.venv_backend != "none":
        session.install("-q", "-e", f".[{extra}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, sqlfluff, the secret scan and the import contracts."""
    install(session)
    session.run("ruff", "check", *PYTHON)
    session.run("ruff", "format", "--check", *PYTHON)
    session.run("sqlfluff", "lint", "--disable-progress-bar", "sql")
    session.run("python", ".ci/scan_secrets.py")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Mypy, strict."""
    install(session)
    session.run("mypy")


@nox.session
@nox.parametrize("postgres", ["18", "16"])
def tests(session: nox.Session, postgres: str) -> None:
    """Every test, on both PostgreSQL wheels; the coverage gate holds on the newer one."""
    install(session)
    coverage = ["--cov", "--cov-report=term:skip-covered"] if postgres == "18" else ["-m", "not e2e"]
    session.run("pytest", *coverage, *session.posargs, env={"TRIALSYNC_TEST_POSTGRES": postgres})


@nox.session
def e2e(session: nox.Session) -> None:
    """Only the tests that run the command line as a user would."""
    install(session)
    session.run("pytest", "-m", "e2e", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The demo twice, in a directory of its own: the second run inserts and updates nothing."""
    install(session, "embedded")
    home = str(Path(session.create_tmp()) / "trialsync")
    for _ in range(2):
        session.run("trialsync-etl", "demo", *session.posargs, env={"TRIALSYNC_HOME": home})
    session.run("trialsync-etl", "db", "stop", env={"TRIALSYNC_HOME": home})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against hand-written COPY + upsert in the same session; prints one table with ratios."""
    install(session)
    session.run("python", "benchmarks/engine.py", *session.posargs)
