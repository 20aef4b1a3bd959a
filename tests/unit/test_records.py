"""From the bytes of an answer to records with keys."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.envelopes import open_envelope, read_document
from clinical_conductor.errors import UnknownEnvelope
from clinical_conductor.records import (
    REASON_NO_OBJECT,
    REASON_NUL,
    REASON_SURROGATE,
    REASON_UTF8,
    Page,
    RecordReader,
    Rows,
    content_hash,
    parse_time,
)


def read(body: bytes, resource: str = "patients", **kwargs: Any) -> Rows:
    endpoint = ENDPOINTS[resource]
    envelope = open_envelope(read_document(body), what=resource, single=endpoint.single)
    return RecordReader(endpoint, **kwargs).read(envelope)


def page(body: bytes, resource: str = "patients", **kwargs: Any) -> Page:
    return read(body, resource, **kwargs).page()


def texts(of: Page) -> list[bytes]:
    return [bytes(raw) for raw in of.records]


@pytest.mark.parametrize(
    "body",
    [
        b'{"value":[{"id":1},{"id":2}],"@odata.nextLink":"/n","@odata.count":2}',
        b'{"@odata.context":"x","@odata.count":2,"@odata.nextLink":"/n","value":[{"id":1},{"id":2}]}',
        b'{"Items":[{"id":1},{"id":2}],"NextPageLink":"/n","Count":2}',
        b'{"items":[{"id":1},{"id":2}],"nextPageLink":"/n","count":"2"}',
        b'\xef\xbb\xbf  {"ITEMS":[{"id":1},{"id":2}],"NEXTPAGELINK":"/n","COUNT":2}\n',
    ],
)
def test_every_known_envelope(body: bytes) -> None:
    envelope = open_envelope(read_document(body), what="x")
    assert [bytes(raw) for raw in envelope.raws] == [b'{"id":1}', b'{"id":2}']
    assert (envelope.link, envelope.count) == ("/n", 2)


@pytest.mark.parametrize("link", [b"null", b'""', b'" "'])
def test_an_empty_link_is_none(link: bytes) -> None:
    envelope = open_envelope(read_document(b'{"Items":[],"NextPageLink":' + link + b',"Count":null}'), what="x")
    assert envelope.link is None
    assert envelope.speaks_of_links
    assert envelope.count is None


def test_a_bare_array() -> None:
    assert page(b'[ {"id": 1} , {"id": 2} ]').keys == ["1", "2"]


@pytest.mark.parametrize("body", [b'{"a": 1, "value": [1]}', b'[{"a": 1, "value": [1]}]'])
def test_a_single_object_bare_or_in_a_list(body: bytes) -> None:
    found = page(body, "instance_details")
    assert texts(found) == [b'{"a": 1, "value": [1]}']
    assert found.keys == ["instance"]
    assert page(body, "study_integration_info", parent_key="7").keys == ["7"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"secret"},"Mrs. Jane Doe":1}', "'error' …"),
        (b'"secret"', "string"),
        (b"null", "null"),
        (b"17", "number"),
        (b'{"value":{"id":1}}', "'value'"),
    ],
)
def test_an_unknown_envelope_names_keys_and_no_data(body: bytes, words: str) -> None:
    with pytest.raises(UnknownEnvelope) as caught:
        page(body)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "Jane" not in str(caught.value)


def test_a_list_where_one_object_is_expected() -> None:
    with pytest.raises(UnknownEnvelope, match="list of 2"):
        page(b"[{},{}]", "instance_details")


@pytest.mark.parametrize(
    "body", [b"", b" ", b"<html></html>", b"[1", b'{"value":[{"id":1}', b"[1] [2]", b"[1,]", b'["\x00"]', b"\xff"]
)
def test_what_is_not_one_json_value(body: bytes) -> None:
    with pytest.raises(ValueError, match="not one complete"):
        read_document(body)


def test_keys_keep_their_own_text() -> None:
    body = b'[{"id":12345678901234567890123},{"Id":7},{"ID":"a\\"b"},{"id":"\\u00e4"},{"id":1.50},{"id":-1}]'
    assert page(body).keys == ["12345678901234567890123", "7", 'a"b', "ä", "1.50", "-1"]
    assert read(body).literals == [b"12345678901234567890123", b"7", b'"a\\"b"', b'"\\u00e4"', b"1.50", b"-1"]


@pytest.mark.parametrize("record", ['{"id":null}', '{"x":1}', '{"id":""}', '{"id":{}}', '{"id":[1]}', '{"id":true}'])
def test_without_a_usable_key(record: str) -> None:
    found = page(f'[{{"id":1}},{record}]'.encode())
    assert found.keys == ["1"]
    assert [(item.key, item.reason, item.raw) for item in found.rejected] == [(None, "has no usable key in id", record)]


def test_a_key_that_is_too_long() -> None:
    found = page(json.dumps([{"id": "x" * 255}, {"id": "y" * 256}]).encode())
    assert found.keys == ["x" * 255]
    assert "256 characters" in found.rejected[0].reason


def test_one_spoilt_record_is_set_aside_and_the_others_stay_as_they_are() -> None:
    records = [
        b'{"id":1,"a":"\\u0000"}',
        b'{"id":2,"a":"\\\\u0000 \\\\ud800"}',
        b'{"id":3,"a":"\\ud800"}',
        b'{"id":4,"a":"\\uDC00\\uD800"}',
        b'{"id":5,"a":"\\ud83d\\ude00 \xf0\x9f\xa7\xaa"}',
        b'{"id":6,"a":"\xff"}',
        b'{"id":7,"a":"\xed\xa0\xbd"}',
        b'{"id":8,"\\u0000":1}',
        b'"text"',
        b'{"id":9,"a":15000.00,"a":12345678901234567890123,"b":1e400000}',
        b'{"id":10,"a":"\\\\\\u0000"}',
    ]
    for body in (b"[" + b",".join(records) + b"]", b'{"Count":11,"Items":[ ' + b" , ".join(records) + b" ]}"):
        found = page(body)
        assert texts(found) == [records[1], records[4], records[9]]
        assert found.keys == ["2", "5", "9"]
        assert found.read == len(records)
        assert [(item.key, item.reason) for item in found.rejected] == [
            ("1", REASON_NUL),
            ("3", REASON_SURROGATE),
            ("4", REASON_SURROGATE),
            ("6", REASON_UTF8),
            ("7", REASON_UTF8),
            ("8", REASON_NUL),
            (None, REASON_NO_OBJECT),
            ("10", REASON_NUL),
        ]
        assert found.rejected[1].raw == records[2].decode()


def test_nested_and_combined_keys() -> None:
    body = b'[{"visit":{"id":1},"element":{"id":2}},{"Visit":{"Id":"a/b"},"element":{"id":3}},{"visit":null}]'
    found = page(body, "visit_elements_by_study", parent_key="9/8")
    assert found.keys == ["1/2", "a%2Fb/3"]
    assert found.rejected[0].parent == "9/8"
    assert page(b'[{"Role":{"Id":5}}]', "study_personnel").keys == ["5"]


def test_parents_named_by_the_records() -> None:
    body = b'[{"id":1,"study":{"id":7},"subject":{"Id":8}},{"id":2,"study":{"id":7},"subject":null}]'
    found = page(body, "patient_visits", parent_fields=("study.id", "subject.Id"))
    assert found.parents == ["7/8"]
    assert found.rejected[0].reason == "names no parent in study.id and subject.Id"


def test_bare_values_are_their_own_keys() -> None:
    found = page(b'["a","b \\u0041"]', "system_lookup_lists")
    assert texts(found) == [b'"a"', b'"b \\u0041"']
    assert found.keys == ["a", "b A"]


def test_content_keys_know_nothing_of_blanks_and_order() -> None:
    first, second, third = page(b'[{"a":1,"b":2.0},{ "b":2.0, "a":1 },{"a":1,"b":2}]', "subject_statuses").keys
    assert first == second != third
    deep = b"[" + b"[" * 5000 + b"]" * 5000 + b"]"
    try:
        document = read_document(deep)
    except ValueError:
        return
    assert RecordReader(ENDPOINTS["subject_statuses"]).read(open_envelope(document, what="x")).keys == [None]


def test_cursors() -> None:
    body = b'[{"id":1,"modifiedDate":"2026-01-01T00:00:00.1234567"},{"id":2},{"id":3,"modifiedDate":null}]'
    assert read(body).cursors == {"modifiedDate": datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)}
    assert read(b'[{"id":1}]').cursors == {}
    assert read(b'[{"id":1,"lastUpdatedOn":"2026-01-01T01:00:00+01:00"}]', "studies").cursors == {
        "lastUpdatedOn": datetime(2026, 1, 1, tzinfo=UTC)
    }


@pytest.mark.parametrize("text", ["", "x", "0001-01-01T00:00:00+14:00", "2026-13-01"])
def test_times_that_cannot_be_read(text: str) -> None:
    assert parse_time(text) is None


def test_no_repr_shows_data() -> None:
    body = b'[{"id":1,"name":"Jane Doe"},{"name":"Jane Doe"}]'
    document = read_document(body)
    envelope = open_envelope(document, what="x")
    rows = RecordReader(ENDPOINTS["patients"]).read(envelope)
    found = rows.page()
    assert "Jane" not in repr([document, envelope, rows, found, found.rejected])


def test_content_hash() -> None:
    [raw] = page(b'[{"id": 1}]').records
    assert content_hash(raw) == content_hash(b'{"id": 1}') != content_hash(b'{"id":1}')
    assert len(content_hash(raw)) == 16


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8"))
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), _JSON, max_size=3), max_size=6), st.booleans(), st.booleans())
def test_any_page_is_split_into_the_bytes_served(records: list[Any], ascii_only: bool, wrapped: bool) -> None:
    served = [json.dumps({**record, "id": i}, ensure_ascii=ascii_only) for i, record in enumerate(records)]
    try:
        parts = [text.encode() for text in served]
    except UnicodeEncodeError:
        return
    body = b"[" + b", ".join(parts) + b"]"
    found = page(b'{"Items":' + body + b"}" if wrapped else body)
    kept = dict(zip(found.keys, texts(found), strict=True)) | {item.key: item.raw.encode() for item in found.rejected}
    assert kept == {str(i): part for i, part in enumerate(parts)}
    for item in found.rejected:
        assert item.reason in (REASON_NUL, REASON_SURROGATE)


def test_fast_enough() -> None:
    """A page of 1.7 MB, generously: 60,000 records a second are wanted, and machines differ."""
    filler = ",".join(f'"field{i}": "some text of a patient"' for i in range(45))
    body = (
        "[" + ",".join(f'{{"id": {i}, "modifiedDate": "2026-01-01T00:00:00", {filler}}}' for i in range(1000)) + "]"
    ).encode()
    endpoint = RecordReader(ENDPOINTS["patients"])
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        endpoint.read(open_envelope(read_document(body), what="patients")).page()
        best = min(best, time.perf_counter() - started)
    assert best < 1000 / 20_000
