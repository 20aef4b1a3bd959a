"""The documents agree with the code: settings, commands, options, errors, links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from clinical_conductor.operations_cli import SERVE_SETTINGS
from clinical_conductor.remedies import REMEDIES, remedy_for
from clinical_conductor.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(DOCS.glob("*.md"))
COMMAND = re.compile(r"trialsync-etl((?: +[^`\s|;&)\\]+)*)")


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def options(reference: ModuleType) -> dict[str, set[str]]:
    """The options of every command by its name."""
    found = {}
    for name, command in reference.commands():
        found[name] = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)} | {
            "--help",
            "-h",
        }
    return found


@pytest.mark.parametrize("page", ["configuration.md", "cli.md", "python.md"])
def test_generated_pages_are_current(reference: ModuleType, page: str) -> None:
    written = (DOCS / page).read_text(encoding="utf-8")
    assert written == reference.PAGES[page](), "run: python docs/reference.py"


def test_every_setting_is_documented() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    names = {item.metadata["setting"].env for item in fields(Settings)}
    names |= {setting.env for setting in SERVE_SETTINGS.values()}
    assert not [name for name in names if f"`{name}`" not in text]


def test_every_command_and_option_is_documented(options: dict[str, set[str]]) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for name in options:
        assert f"\n## trialsync-etl {name}\n" in text
    for name in (
        "serve",
        "metrics",
        "dashboard",
        "schedule",
        "schedule list",
        "schedule export",
        "alerts test",
        "alerts check",
    ):
        assert name in options


def test_every_error_is_in_the_troubleshooting() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    for kind, remedy in REMEDIES.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `{kind}` |"))
        assert remedy.meaning in line


def commands_in(text: str) -> Iterator[list[str]]:
    for match in COMMAND.finditer(text):
        try:
            words = shlex.split(match[1].replace("\\", ""))
        except ValueError:
            words = match[1].split()
        words = [word.strip("'\",.:") for word in words]
        if words and re.fullmatch(r"[a-z]+", words[0]):
            yield words


def check_command(words: list[str], options: dict[str, set[str]]) -> None:
    name = " ".join(words[:2]) if " ".join(words[:2]) in options else words[0]
    assert name in options, f"there is no command {name!r}"
    unknown = [word for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in options[name]]
    assert not unknown, f"trialsync-etl {name} has no {unknown}"


@pytest.mark.parametrize("kind", sorted(REMEDIES))
def test_command_that_mends_exists(kind: str, options: dict[str, set[str]]) -> None:
    words = remedy_for(kind, job_id=2, resource="studies", run_id=3).command.split()
    check_command(words[1:], options)


@pytest.mark.parametrize(
    "path",
    [*WRITTEN, *sorted(p for p in (ROOT / "deploy").rglob("*") if p.is_file()), ROOT / ".github/workflows/nightly.yml"],
    ids=lambda path: path.name,
)
def test_commands_in_documents_and_deployment_exist(path: Path, options: dict[str, set[str]]) -> None:
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# "))
    for words in commands_in(text):
        check_command(words, options)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_example_of_jobs_yaml_in_the_documents_is_valid(tmp_path: Path) -> None:
    from clinical_conductor.jobs_config import load_jobs_config

    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    example = re.findall(r"```yaml\n(.*?)```", text, re.S)[0]
    file = tmp_path / "jobs.yaml"
    file.write_text(example, encoding="utf-8")
    assert set(load_jobs_config(file)) == set(yaml.safe_load(example)["jobs"])
