"""The image and the compose file, as far as they can be tried without a Docker engine.

Compose itself reads its file. The Dockerfile's steps are done one by one: the files it copies make the wheel, what its
last stage installs serves with the settings that compose gives, and its health check sees that. Not tried are the base
image, the user, and the limits that an engine sets.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import metadata
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import clinical_conductor
from clinical_conductor.operations_cli import SERVE_SETTINGS
from clinical_conductor.settings import Settings
from tests.fixtures.processes import free_port
from tests.packaging.conftest import ROOT, build, install

DEPLOY = ROOT / "deploy"
DIGEST = "(@sha256:[0-9a-f]{64})?"

# -- compose -----------------------------------------------------------------------------------------------------------

KNOWN = {item.metadata["setting"].env for item in fields(Settings)} | {
    setting.env for setting in SERVE_SETTINGS.values()
}
NEEDED = {
    "CC_API_BASE_URL": "https://ccs.example.com/CCSWEB",
    "CC_API_KEY": "made-up",
    "DATABASE_PASSWORD": "made-up",
    "TRIALSYNC_TOKEN": "made-up-made-up-made-up",
    "GRAFANA_PASSWORD": "made-up",
}
"""What compose.yaml wants to be told."""


def compose(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Docker Compose, as far as it goes without an engine: reading its file."""
    command = [Path(sysconfig.get_path("scripts")) / "docker-compose", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of compose.yaml as Compose understands them."""
    done = compose("--file", "deploy/compose.yaml", "config", "--format", "json", **NEEDED)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout)["services"])


def test_compose_is_pinned_and_private(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "trialsync", "prometheus", "grafana"}
    for name, service in services.items():
        assert re.search(rf":v?\d+\.\d+(\.\d+)?(-\w+)?{DIGEST}$", service["image"]), name
        assert {port.get("host_ip") for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        for mount in service["volumes"]:
            assert mount["type"] == "volume" or Path(mount["source"]).exists(), mount


def test_compose_gives_trialsync_settings_it_knows_and_little_power(services: dict[str, Any]) -> None:
    ours = services["trialsync"]
    assert set(ours["environment"]) <= KNOWN
    assert ours["read_only"] is True
    assert ours["cap_drop"] == ["ALL"]
    assert (Path(ours["build"]["context"]), ours["build"]["dockerfile"]) == (ROOT, "deploy/Dockerfile")
    assert ours["image"] == f"trialsync:{clinical_conductor.__version__}"


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_compose_says_what_is_missing(name: str) -> None:
    given = {key: value for key, value in NEEDED.items() if key != name}
    done = compose("--file", "deploy/compose.yaml", "config", "--quiet", **given)
    assert done.returncode != 0
    assert f"required variable {name} is missing a value: set {name} in .env" in done.stderr


def test_compose_commands_in_the_documents_find_their_settings(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in NEEDED.items()), encoding="utf-8")
    pages = [DEPLOY / "compose.yaml", *(ROOT / "docs").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    found = re.findall(r"docker compose ((?:--\S+ \S+ )+)(?:config|exec|up)\b", text)
    assert len(found) >= 3
    for options in found:
        done = compose(*options.split(), "config", "--quiet", cwd=tmp_path)
        assert done.returncode == 0 and not done.stderr, (options, done.stderr)


# -- the image ---------------------------------------------------------------------------------------------------------

Stage = list[tuple[str, str]]
"""The instructions of one stage, as name and value."""


def read_stages() -> list[Stage]:
    """The Dockerfile's stages, from FROM to FROM."""
    found: list[Stage] = []
    for each in DockerfileParser(fileobj=BytesIO((DEPLOY / "Dockerfile").read_bytes())).structure:
        if each["instruction"] == "FROM":
            found.append([])
        if each["instruction"] != "COMMENT":
            found[-1].append((each["instruction"], each["value"]))
    return found


BUILD, IMAGE = read_stages()


def value_of(name: str) -> str:
    """What the image's last instruction of that name says."""
    return [value for instruction, value in IMAGE if instruction == name][-1]


def copy_files(stage: Stage, root: Path) -> None:
    """Do what the stage copies from this checkout, with `root` for the image's /."""
    here = PurePosixPath("/")
    for name, value in stage:
        if name == "WORKDIR":
            here /= value
        if name == "COPY" and not value.startswith("--from"):
            *sources, target = shlex.split(value)
            place = root / (here / target).relative_to("/")
            for source in (ROOT / source for source in sources):
                if source.is_dir():
                    shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, place)


def test_image_is_pinned_and_runs_as_nobody_in_particular() -> None:
    for stage in (BUILD, IMAGE):
        assert re.match(rf"python:3\.\d+\.\d+-slim-\w+{DIGEST}( AS \w+)?$", dict(stage)["FROM"])
    names = [name for name, _ in IMAGE]
    assert int(value_of("USER")) > 0
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert not [value for name, value in IMAGE if name == "ENV" and re.search("KEY|PASSWORD|TOKEN", value)]


def test_copied_files_are_enough_for_the_wheel(wheel: Path, tmp_path: Path) -> None:
    copy_files(BUILD, tmp_path / "root")
    assert BUILD[-1] == ("RUN", "python -m build --wheel --outdir /wheels")
    assert ("COPY", "--from=build /wheels /wheels") in IMAGE
    made = build("wheel", tmp_path / "root" / "src", tmp_path / "wheels")
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(made) as theirs:
        assert {each.filename: each.CRC for each in theirs.infolist()} == {
            each.filename: each.CRC for each in ours.infolist()
        }


def required(project: metadata.Distribution, extra: str) -> list[metadata.Distribution]:
    """What pip would install with the project and its extra, from the packages of this environment."""
    found: dict[tuple[str, frozenset[str]], metadata.Distribution] = {}
    todo = [(project, frozenset({extra}))]
    while todo:
        distribution, extras = todo.pop()
        for line in distribution.requires or ():
            wanted = Requirement(line)
            if wanted.marker and not any(wanted.marker.evaluate({"extra": name}) for name in ("", *extras)):
                continue
            key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
            if key not in found:
                found[key] = metadata.distribution(wanted.name)
                todo.append((found[key], key[1]))
    return list(found.values())


@pytest.fixture(scope="module")
def in_image(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with what the image's pip install puts in, and nothing else."""
    found = re.search(r'pip install --no-cache-dir "\$\(ls /wheels/\*\.whl\)\[(\w+)\]"', value_of("RUN"))
    assert found
    home = tmp_path_factory.mktemp("image")
    packages = install(wheel, home)
    (ours,) = packages.glob("trialsync-*.dist-info")
    for distribution in required(metadata.Distribution.at(ours), found[1]):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    return home / "bin"


@contextmanager
def container(bin_folder: Path, root: Path, environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The image's process with the image's files below `root`, on a free port; and its dashboard's address."""
    image = DockerfileParser(fileobj=BytesIO((DEPLOY / "Dockerfile").read_bytes())).envs
    given = {name: re.sub(r"^/(etc|var)/", rf"{root}/\1/", value) for name, value in (image | environment).items()}
    home = root / value_of("WORKDIR").lstrip("/")
    home.mkdir(parents=True)
    program, *arguments = json.loads(value_of("ENTRYPOINT")) + json.loads(value_of("CMD"))
    process = subprocess.Popen(
        [str(bin_folder / program), *arguments, "--host", "127.0.0.1", "--port", "0"],
        cwd=home,
        env=given | {"PATH": os.environ["PATH"], "HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("Dashboard: "):
                break
        else:
            pytest.fail("".join(said))
        yield process, line.split()[1]
    finally:
        process.kill()
        process.communicate()


def test_image_serves_what_compose_expects_and_stops_when_asked(
    in_image: Path,
    database: str,
    services: dict[str, Any],
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    metrics_port = free_port()
    copy_files(IMAGE, root)
    url = urlsplit(database)
    settings = services["trialsync"]["environment"] | {
        "CC_API_BASE_URL": "http://127.0.0.1:1/CCSWEB",
        "DATABASE_HOST": str(url.hostname),
        "DATABASE_PORT": str(url.port),
        "DATABASE_NAME": url.path.lstrip("/"),
        "DATABASE_PASSWORD": url.password,
        "METRICS_PORT": str(metrics_port),
    }
    with container(in_image, root, settings) as (process, address):
        assert requests.get(f"{address}ready", timeout=10).json()["ready"] is True

        health = json.loads(value_of("HEALTHCHECK").partition("CMD ")[2])
        asked = [part.replace("http://127.0.0.1:8080/", address) for part in health]
        asked[0] = str(in_image / asked[0])
        assert asked != health
        assert subprocess.run(asked, check=False, capture_output=True).returncode == 0

        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        token = {"Authorization": f"Bearer {settings['TRIALSYNC_TOKEN']}"}
        assert requests.get(metrics, timeout=10).status_code == 401
        assert "\ntrialsync_ledger_up 1.0\n" in requests.get(metrics, headers=token, timeout=10).text

        process.send_signal(signal.SIGTERM)
        assert process.wait(45) == 0
        assert subprocess.run(asked, check=False, capture_output=True).returncode != 0


def test_ports_agree(services: dict[str, Any]) -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    (dashboard,) = services["trialsync"]["ports"]
    assert target == f"trialsync:{Settings().metrics_port}"
    assert value_of("EXPOSE").split() == [str(dashboard["target"]), str(Settings().metrics_port)]
    assert f"http://127.0.0.1:{dashboard['target']}/" in value_of("HEALTHCHECK")
