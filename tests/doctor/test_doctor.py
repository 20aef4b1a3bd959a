"""The doctor against instances that differ, over real HTTP and a real PostgreSQL."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clinical_conductor import cli
from clinical_conductor.catalog import ENDPOINTS, find_endpoint
from clinical_conductor.diagnosis import Finding, Report, examine
from clinical_conductor.doctor import show
from clinical_conductor.probing import Pace, Witness, find_access, probe_all
from clinical_conductor.settings import Settings
from clinical_conductor.simulator import Simulator

ACTIVE = [row.resource for row in ENDPOINTS.values() if row.active]


def settings_for(upstream: Simulator, database: str = "", home: Path = Path(".trialsync"), **changes: Any) -> Settings:
    """Settings that point at a simulator, with no patience."""
    return Settings(
        **{
            "api_base_url": upstream.base_url,
            "api_key": upstream.api_key,
            "api_rate_limit": 0.0,
            "max_retries": 1,
            "retry_delay_seconds": 0.01,
            "timeout_seconds": 5.0,
            "database_url": database,
            "work_dir": home,
            **changes,
        }
    )


@pytest.fixture
def doctor(tmp_path: Path) -> Callable[..., Report]:
    """Examine some resources of an instance; all of them when none is named. Without a database unless one is given."""

    def look(
        upstream: Simulator, *names: str, fix: bool = False, instance: str | None = None, **changes: Any
    ) -> Report:
        rows = [find_endpoint(name) for name in names] or list(ENDPOINTS.values())
        settings = settings_for(upstream, home=tmp_path / "home", **changes)
        return examine(settings, rows, fix=fix, instance=instance)

    return look


def texts(report: Report, level: str) -> list[str]:
    """What a report says at a level."""
    return [finding.text for finding in report.findings if finding.level == level]


# -- a whole instance ------------------------------------------------------------------------------


def test_a_good_instance_is_told_endpoint_by_endpoint(
    doctor: Callable[..., Report], simulator: Simulator, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = doctor(simulator, database_url=database)
    assert texts(report, "error") == []
    assert {name for name, probe in report.probes.items() if probe.status == "ok"} == set(ACTIVE)
    seen = {entry["resource"]: entry for entry in report.as_json()["endpoints"]}
    patients = seen["patients"]
    assert (patients["envelope"], patients["paging"], patients["order"]) == ("array", "key", True)
    assert (patients["cursor"], patients["cursor_filter"]) == ("modifiedDate", "honoured")
    assert (seen["appointments"]["envelope"], seen["appointments"]["count"]) == ("items", True)
    assert seen["subjects"]["bulk"] is True
    assert (seen["study_detail"]["envelope"], seen["sites"]["paging"]) == ("object", "all")
    assert (seen["monitor_queries"]["status"], seen["monitor_queries"]["active"]) == ("501", False)
    assert report.document is not None
    assert (report.document.absent, report.document.new, report.document.fields) == ([], [], [])
    assert report.database.migrations_pending == []
    assert report.database.server_version
    show(report)
    lines = capsys.readouterr().out.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("job id")) :][: 1 + len(ENDPOINTS)]
    assert max(map(len, table)) <= 80
    assert lines[-1].startswith("74 of 74 active endpoints answer · 0 errors, ")


def test_an_examination_costs_few_requests_and_keeps_the_pace(
    doctor: Callable[..., Report], simulator: Simulator
) -> None:
    report = doctor(simulator, "studies", "subjects", "sites", api_rate_limit=20.0)
    per_endpoint = {name: probe.requests for name, probe in report.probes.items()}
    assert all(number <= 5 for number in per_endpoint.values()), per_endpoint
    assert len(simulator.log) <= sum(per_endpoint.values()) + 2
    times = [entry.at for entry in simulator.log]
    assert times[-1] - times[0] >= (len(times) - 4) / 20 * 0.9


def test_no_record_no_id_and_no_key_is_in_what_is_printed(
    doctor: Callable[..., Report],
    simulator_factory: Callable[..., Simulator],
    capsys: pytest.CaptureFixture[str],
) -> None:
    upstream = simulator_factory(paths="spec", ids="guid", api_key="a-key-nobody-may-see")
    upstream.fault("unknown-envelope", resource="patient_allergies")
    upstream.fault("error", resource="patient_devices", status=400)
    upstream.fault("html", resource="subjects")
    upstream.fault("not-found", resource="study_arms")
    report = doctor(upstream)
    show(report)
    text = capsys.readouterr().out + json.dumps(report.as_json())
    assert "study_arms answers 404" in text
    assert "error  patient_allergies: " in text and "patient_allergies: patient_allergies:" not in text
    assert "a-key-nobody-may-see" not in text
    values = set()
    for name in ("patients", "studies", "subjects", "patient_visits", "staff"):
        for parent, record in upstream.truth(name):
            values.update(parent.split("/"))
            values.update(
                re.findall(r'"(?:id|uid|displayName|firstName|lastName|dateOfBirth)":"?([^",}]{4,})', record.decode())
            )
    assert len(values) > 100
    words = set(re.findall(r"[\w-]+", text))
    assert words.isdisjoint(values)


# -- the way in ------------------------------------------------------------------------------------


def test_the_header_that_takes_the_key_is_found(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator]
) -> None:
    report = doctor(simulator_factory(key_header="CCAPIKey"), "sites", "studies")
    assert report.access is not None
    assert report.access.key_header == "CCAPIKey"
    (text,) = texts(report, "error")
    assert "takes the key in CCAPIKey, not in X-ApiKey: set CC_API_KEY_HEADER=CCAPIKey" in text
    assert report.probes["studies"].status == "ok"
    assert report.as_json()["api"]["key_header"] == "CCAPIKey"


def test_a_base_url_without_its_path_is_completed(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator]
) -> None:
    upstream = simulator_factory(key_header="CCAPIKey")
    report = doctor(upstream, "sites", api_base_url=upstream.base_url.removesuffix("/CCSWEB"))
    first, second = texts(report, "error")
    assert first == f"The base URL lacks its path: set CC_API_BASE_URL={upstream.base_url}"
    assert "CC_API_KEY_HEADER=CCAPIKey" in second
    assert report.probes["sites"].status == "ok"


def test_a_refused_key_is_told_once_and_nothing_else_is_asked(
    doctor: Callable[..., Report], simulator: Simulator
) -> None:
    report = doctor(simulator, api_key="mistyped")
    (text,) = texts(report, "error")
    assert "refuses the key, in X-ApiKey and in CCAPIKey alike" in text
    assert "mistyped" not in json.dumps(report.as_json())
    assert report.probes == {}
    assert len(simulator.log) == 2


def test_an_api_that_cannot_be_reached_or_is_not_configured_is_an_error_beside_a_good_database(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator], database: str
) -> None:
    upstream = simulator_factory()
    upstream.close()
    report = doctor(upstream, "sites", database_url=database)
    assert "the connection failed" in texts(report, "error")[0]
    assert report.database.where is not None
    report = doctor(upstream, "sites", api_base_url="", api_key="")
    assert "CC_API_BASE_URL is not set" in texts(report, "error")[0]


def test_a_right_that_is_missing_for_one_endpoint_is_that_endpoints_matter(
    doctor: Callable[..., Report], simulator: Simulator
) -> None:
    simulator.fault("error", resource="staff", status=403)
    report = doctor(simulator, "staff", "rooms")
    assert (report.probes["staff"].status, report.probes["rooms"].status) == ("refused", "ok")
    (text,) = texts(report, "error")
    assert text.startswith("staff: ")
    assert "403" in text


# -- endpoints that differ -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envelope", "shape"), [("value", "value"), ("items-lower", "items"), ("array", "array"), ("items", "items")]
)
def test_the_envelope_is_named(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator], envelope: str, shape: str
) -> None:
    report = doctor(simulator_factory(envelope=envelope), "rooms")
    assert report.probes["rooms"].as_json()["envelope"] == shape


@pytest.mark.parametrize(
    ("fault", "field", "expected"),
    [
        ("reject-count", "count", False),
        ("reject-orderby", "order", False),
        ("reject-filter", "cursor_filter", "refused"),
        ("ignore-filter", "cursor_filter", "ignored"),
        ("ignore-orderby", "paging", "key"),
        ("ignore-paging", "paging", "key"),  # the filter still works
        ("reject-top", "paging", "all"),
    ],
)
def test_what_an_endpoint_makes_of_an_option_is_found_out(
    doctor: Callable[..., Report], simulator: Simulator, fault: str, field: str, expected: Any
) -> None:
    simulator.fault(fault, resource="rooms")
    report = doctor(simulator, "rooms")
    assert report.probes["rooms"].as_json()[field] == expected
    assert texts(report, "error") == []


def test_an_instance_that_ignores_every_option_is_read_all_at_once(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator]
) -> None:
    report = doctor(simulator_factory(odata=False), "rooms")
    rooms = report.probes["rooms"].as_json()
    assert (rooms["status"], rooms["paging"], rooms["top"], rooms["cursor_filter"]) == ("ok", "all", False, "ignored")
    assert any(text.startswith("Paging is ignored: rooms") for text in texts(report, "note"))


def test_without_modified_dates_the_listings_are_said_to_be_read_in_full(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator]
) -> None:
    report = doctor(simulator_factory(modified_date=False), "studies", "rooms", "staff")
    assert report.probes["studies"].found.cursor == "lastUpdatedOn"
    notes = [text for text in texts(report, "note") if "read in full every time" in text]
    assert notes == ["Without a cursor, so read in full every time: staff, rooms."] or notes == [
        "Without a cursor, so read in full every time: rooms, staff."
    ]


def test_an_endpoint_that_is_not_offered_or_not_there_is_an_error_that_names_the_way_out(
    doctor: Callable[..., Report], simulator: Simulator
) -> None:
    simulator.fault("not-implemented", resource="rooms")
    simulator.fault("not-found", resource="schedules")
    report = doctor(simulator, "rooms", "schedules", "monitor_queries")
    off, gone = texts(report, "error")
    assert "501" in off
    assert "trialsync-etl schedule --job-id 33 --disable" in off
    assert "schedules answers 404 at /api/v1/schedules/odata" in gone
    assert report.severity == "error"


def test_a_job_that_is_off_and_answers_all_the_same_is_worth_a_note(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = simulator_factory()
    for routes in upstream.api._routes.values():
        for route in routes:
            object.__setattr__(route, "not_offered", False) if route.path == "/monitor-queries/odata" else None
    try:
        report = doctor(upstream, "monitor_queries")
    finally:
        for routes in upstream.api._routes.values():
            for route in routes:
                object.__setattr__(route, "not_offered", True) if route.path == "/monitor-queries/odata" else None
    assert "monitor_queries answers here though its job is off: trialsync-etl schedule --job-id 30 --enable" in texts(
        report, "note"
    )


def test_children_are_asked_for_a_parent_that_the_api_served(simulator: Simulator) -> None:
    settings = settings_for(simulator)
    client = Witness(settings)
    row = ENDPOINTS["subject_patient_visits"]
    found = probe_all(client, [row], {})
    assert list(found) == [row.resource]
    assert found[row.resource].status == "ok"
    assert re.search(r"/studies/\d+/subjects/\d+/patient-visits", simulator.log[-1].path)
    assert found[row.resource].as_json()["answering_path"] == row.path


def test_without_a_parent_nothing_is_asked(simulator: Simulator) -> None:
    simulator.on_request(lambda request: None)
    for _, record in list(simulator.truth("patients")):
        simulator.delete("patients", "", str(json.loads(record)["id"]))
    found = probe_all(Witness(settings_for(simulator)), [ENDPOINTS["patient_devices"]], {})
    assert found["patient_devices"].status == "-"


# -- overrides -------------------------------------------------------------------------------------


def test_fix_writes_the_paths_that_answer_and_says_so(
    doctor: Callable[..., Report], simulator_factory: Callable[..., Simulator], database: str
) -> None:
    upstream = simulator_factory(paths="spec")
    names = ("visit_elements", "patient_visit_stipends", "study_types", "sites")
    report = doctor(upstream, *names, database_url=database)
    assert len(texts(report, "warning")) >= 2
    assert any(
        "answers at /api/v1/patient-visits/{patientVisitId}/elements, not at" in t for t in texts(report, "warning")
    )
    assert report.fixed == []
    report = doctor(upstream, *names, fix=True, database_url=database)
    assert [line.split(":")[0] for line in report.fixed] == [
        "visit_elements (job 166)",
        "patient_visit_stipends (job 161)",
    ] or [line.split(":")[0] for line in report.fixed] == [
        "patient_visit_stipends (job 161)",
        "visit_elements (job 166)",
    ]
    with psycopg.connect(database) as conn:
        rows = dict(
            conn.execute("select id, source_endpoint from dw_etl_jobs where id in (166, 161, 1, 173)").fetchall()
        )
    assert rows == {
        1: ENDPOINTS["sites"].path,
        161: ENDPOINTS["patient_visit_stipends"].alternate,
        166: ENDPOINTS["visit_elements"].alternate,
        173: ENDPOINTS["study_types"].path,
    }
    again = doctor(upstream, *names, fix=True, database_url=database)
    assert again.fixed == []
    assert [text for text in texts(again, "warning") if "answers at" in text] == []
    assert ["study_types" in text for text in texts(again, "error")] == [True]


def test_an_override_that_does_not_answer_is_an_error_until_it_is_fixed(
    doctor: Callable[..., Report], simulator: Simulator, database: str
) -> None:
    with psycopg.connect(database) as conn:
        conn.execute("update dw_etl_jobs set source_endpoint = '/api/v2/rooms/odata' where id = 33")
    report = doctor(simulator, "rooms", database_url=database)
    (text,) = texts(report, "error")
    assert "rooms answers at /api/v1/rooms/odata, not at /api/v2/rooms/odata" in text
    report = doctor(simulator, "rooms", fix=True, database_url=database)
    assert texts(report, "error") == []
    assert report.fixed == [
        "rooms (job 33): source_endpoint is now /api/v1/rooms/odata, it was /api/v2/rooms/odata",
    ]


# -- the database ----------------------------------------------------------------------------------


def test_a_database_of_the_old_system_is_only_told_to_be_upgraded(
    doctor: Callable[..., Report], simulator: Simulator, empty_database: str
) -> None:
    with psycopg.connect(empty_database) as conn:
        conn.execute("create table dw_etl_jobs (id integer, source_endpoint text, is_active boolean)")
    report = doctor(simulator, "sites", database_url=empty_database)
    assert report.database.migrations_pending
    assert texts(report, "error") == []


def test_a_database_without_the_schema_is_told_and_left_alone_but_for_fix(
    doctor: Callable[..., Report], simulator: Simulator, empty_database: str
) -> None:
    report = doctor(simulator, "sites", database_url=empty_database)
    assert len(report.database.migrations_pending) >= 3
    assert any("trialsync-etl db migrate" in text for text in texts(report, "warning"))
    with psycopg.connect(empty_database) as conn:
        assert conn.execute("select count(*) from pg_class where relname like 'dw%'").fetchone() == (0,)
    report = doctor(simulator, "sites", database_url=empty_database, fix=True)
    assert report.database.migrations_pending == []
    assert "0001_control: applied" in report.fixed


def test_looking_writes_nothing(doctor: Callable[..., Report], simulator: Simulator, database: str) -> None:
    doctor(simulator, "sites", database_url=database)
    with psycopg.connect(database) as conn:
        assert conn.execute("select count(*) from dw_api_credentials").fetchone() == (0,)
        assert conn.execute("select count(*) from dw_etl_capabilities").fetchone() == (0,)


def test_a_named_instance_is_asked_with_its_own_key_and_an_unknown_one_is_refused(
    doctor: Callable[..., Report],
    simulator: Simulator,
    simulator_factory: Callable[..., Simulator],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    west = simulator_factory(api_key="west-key", key_header="CCAPIKey")
    monkeypatch.setenv("CC_KEY_WEST", "west-key")
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into dw_api_credentials (instance_name, base_url, api_key, api_key_header, is_active)"
            " values ('west', %s, 'env:CC_KEY_WEST', 'CCAPIKey', true)",
            (west.base_url,),
        )
    report = doctor(simulator, "sites", instance="west", database_url=database)
    assert (report.instance, report.base_url, texts(report, "error")) == ("west", west.base_url, [])
    assert simulator.log == []
    report = doctor(simulator, "sites", instance="east", database_url=database)
    assert any("There is no instance 'east'" in text for text in texts(report, "error"))
    assert simulator.log == []


def test_a_login_that_may_not_create_schemas_is_an_error(
    doctor: Callable[..., Report], simulator: Simulator, database: str
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    role = f"guest_of_{name}"
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"create role {role} login superuser password 'guest'")
        conn.execute(f"alter role {role} nosuperuser")
        conn.execute(f"grant all on all tables in schema public to {role}")
        conn.execute(f"grant all on all sequences in schema public to {role}")
        try:
            with_login = re.sub(r"//[^@/]*@", f"//{role}:guest@", database)
            report = doctor(simulator, "sites", database_url=with_login)
            assert any(f"grant create on database {name} to {role};" in text for text in texts(report, "error"))
            assert "guest:" not in json.dumps(report.as_json())
        finally:
            conn.execute(f"drop owned by {role}")
            conn.execute(f"drop role {role}")


def test_a_database_that_is_away_is_an_error_beside_a_good_api(
    doctor: Callable[..., Report], simulator: Simulator
) -> None:
    report = doctor(simulator, "sites", database_url="postgresql://nobody@127.0.0.1:1/none")
    assert any("PostgreSQL at 127.0.0.1:1" in text for text in texts(report, "error"))
    assert report.probes["sites"].status == "ok"
    assert next(report.database.lines()) == "not reached"


def test_no_database_at_all_is_a_note_and_none_is_made(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = examine(settings_for(simulator, home=tmp_path / "home"), [ENDPOINTS["sites"]])
    assert texts(report, "error") == []
    assert any("No database is configured" in text for text in texts(report, "note"))
    assert not (tmp_path / "home").exists()
    show(report)
    assert "none yet" in capsys.readouterr().out


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_json_and_its_exit_code_is_the_severity(
    simulator: Simulator,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "CC_API_BASE_URL": simulator.base_url,
        "CC_API_KEY": simulator.api_key,
        "CC_API_RATE_LIMIT": "0",
        "ETL_RETRY_DELAY_SECONDS": "0.01",
        "DATABASE_URL": database,
        "LOG_LEVEL": "WARNING",
    }.items():
        monkeypatch.setenv(name, value)

    def call(*args: str) -> tuple[int, str]:
        try:
            code = cli.main(["doctor", *args])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().out

    code, out = call("--json", "--resources", "sites,studies")
    report = json.loads(out)
    assert code == 0
    assert report["severity"] == "warning"  # the simulator lives in a time of its own
    assert [entry["resource"] for entry in report["endpoints"]] == ["sites", "studies"]
    assert [entry["status"] for entry in report["endpoints"]] == ["ok", "ok"]
    simulator.fault("not-implemented", resource="sites")
    code, out = call("-r", "sites")
    assert code == 1
    assert "0 of 1 active endpoints answer · 1 error" in out
    assert call("-r", "sitez")[0] == 2


def test_findings_come_with_the_worst_first_and_clock_and_pace_are_judged(simulator: Simulator, database: str) -> None:
    report = Report()
    assert report.severity == "ok"
    report.pace = Pace(20, 3, 0.5, 2.5, 5.0)
    from clinical_conductor.diagnosis import _judge_api, skew, sorted_findings

    _judge_api(report, settings_for(simulator))
    assert [finding.level for finding in sorted_findings(report.findings)] == ["warning", "note", "note"]
    assert "asked for a pause 3 times" in texts(report, "warning")[0]
    assert (skew(-90.0), skew(7200.0), skew(-400_000.0)) == (
        "90.0 seconds behind",
        "2.0 hours ahead of",
        "4.6 days behind",
    )
    assert Finding("error", "api", "x").resources == ()


def test_a_clock_that_agrees_is_no_matter(simulator: Simulator) -> None:
    access = find_access(
        settings_for(simulator), base_url=simulator.base_url, api_key="demo-key", key_header="X-ApiKey"
    )
    assert access.error is None
    client = Witness(settings_for(simulator))
    client.fetch("/api/v1/sites")
    assert client.clocks[0] < -3600  # the simulator's own time is far from ours
    assert client.scoped().clocks == []
