"""Sessions: `nox -l` lists them, `nox` runs lint, typing and tests. Each makes its own environment, with pip.

`nox --no-venv -s lint` uses the environment that is active instead (how .ci/run calls it).
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "typing", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False

DEPLOY, WORKFLOWS = Path("deploy"), Path(".github/workflows")
SCRIPTS = [".ci/run", ".ci/tools", *map(str, sorted(DEPLOY.glob("*.sh")))]
PYTHON = ["clinical_conductor", "pipelines", "tests", "benchmarks", "notebooks", "noxfile.py", ".ci"]


def install(session: nox.Session, extra: str = "dev") -> None:
    """Install the project as users do, unless the session runs in an environment that is not its own."""
    if session.venv_backend != "none":
        session.install("-q", "-e", f".[{extra}]")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, sqlfluff, the secret scan, the import contracts, and the linters of scripts, containers and workflows."""
    install(session)
    session.run("ruff", "check", *PYTHON)
    session.run("ruff", "format", "--check", *PYTHON)
    session.run("sqlfluff", "lint", "--disable-progress-bar", "sql")
    session.run("python", ".ci/scan_secrets.py")
    session.run("lint-imports")
    session.run("shellcheck", "--external-sources", *SCRIPTS)
    session.run("hadolint", str(DEPLOY / "Dockerfile"))
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))
    workflows = map(str, sorted(WORKFLOWS.iterdir()))
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("zizmor", "--offline", "--no-progress", "--quiet", ".github")


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
def proof(session: nox.Session) -> None:
    """The long version of tests/proof: 300 examples, 60 kills, 30 simulated days. Takes an hour or two."""
    install(session)
    session.run("pytest", "tests/proof", *session.posargs, env={"TRIALSYNC_PROOF": "nightly"})


@nox.session
def demo(session: nox.Session) -> None:
    """The demo twice, in a directory of its own: the second run inserts and updates nothing."""
    install(session, "embedded")
    home = str(Path(session.create_tmp()) / "trialsync")
    for _ in range(2):
        session.run("trialsync-etl", "demo", *session.posargs, env={"TRIALSYNC_HOME": home})
    session.run("trialsync-etl", "db", "stop", env={"TRIALSYNC_HOME": home})


BENCHMARKS = {
    "engine": "listings against hand-written COPY + upsert, and memory (--records, --large)",
    "fan_out": "children against a hand-written fan-out (--parents)",
    "warehouse": "silver and gold against CREATE TABLE AS SELECT (--rows)",
    "rate": "the pace as the server sees it, and the records a day (--rate, --seconds)",
    "queries": "every gold view, and what status, history, plan and dashboard ask (--scale, --runs, --explain)",
    "month": "a simulated month of nightly budgets (--scale, --nights)",
}


@nox.session
def bench(session: nox.Session) -> None:
    """Measure: engine, fan_out, warehouse and rate in one table, in about ten minutes; `-- --quick` tries them all.

    Or one of them, or queries or month, each with its options: `nox -s bench -- queries --scale 0.05`. Fails when a
    limit is missed, after everything had its turn.
    """
    options = list(session.posargs)
    name = options.pop(0) if options and not options[0].startswith("-") else ""
    if name and name not in BENCHMARKS:
        session.log("nox -s bench [-- [NAME] [OPTIONS]]; each NAME knows --help.")
        for known, meaning in BENCHMARKS.items():
            session.log(f"  {known:<9}  {meaning}")
        return
    install(session)
    session.run("python", "-m", f"benchmarks.{name}" if name else "benchmarks", *options)
