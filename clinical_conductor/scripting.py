"""The API by path, for scripts that want answers and no pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from clinical_conductor.catalog import ENDPOINTS, Endpoint, fill_path, find_endpoint
from clinical_conductor.client import Answer, Client
from clinical_conductor.envelopes import open_envelope
from clinical_conductor.errors import ConfigurationError, EndpointNotFound
from clinical_conductor.odata import MAX_PAGE, Capabilities
from clinical_conductor.paging import Listing
from clinical_conductor.source import source_settings


class ClinicalConductorClient:
    """The API by path, for scripts: `ClinicalConductorClient(url, key).get_odata("/api/v1/studies/odata")`.

    An endpoint is a path below the base URL, or a resource's name. The same pace, retries and errors as everywhere.

    Args:
        base_url: Such as https://ccs.example.com/CCSWEB; CC_API_BASE_URL by default.
        api_key: The instance's key; CC_API_KEY by default.
        settings: Fields of `Settings` besides, such as api_key_header.
    """

    def __init__(self, base_url: str | None = None, api_key: str | None = None, **settings: Any) -> None:
        self.client = Client(
            source_settings(api_base_url=base_url, api_key=api_key, **{"api_key_header": None, **settings})
        )

    def get(self, endpoint: str, params: Mapping[str, Any] | None = None) -> Any:
        """One answer, as JSON."""
        return msgspec.json.decode(self._fetch(_whole_path(endpoint), params or {}).document.masked)

    def get_odata(self, endpoint: str, filter: str | None = None, top: int = MAX_PAGE) -> list[Any]:
        """The records of one request: those that match `filter`, at most `top`."""
        return self._records(_whole_path(endpoint), {"$filter": filter, "$top": top})

    def get_paginated(self, endpoint: str, page_size: int = MAX_PAGE) -> Iterator[Any]:
        """All records of a listing, none lost or repeated between its pages."""
        path = _whole_path(endpoint)
        if not 1 <= page_size <= MAX_PAGE:
            raise ConfigurationError(f"page_size is {page_size}: it must be between 1 and {MAX_PAGE}.")
        row = next((row for row in ENDPOINTS.values() if path in row.paths), None)
        row = row or Endpoint(0, path, path, "", "system", resource_name=path)
        for page in Listing(self.client, row, capabilities=Capabilities(), page_size=page_size):
            yield from (msgspec.json.decode(raw) for raw in page.records)
            for item in page.rejected:  # without a key, or not for PostgreSQL: whoever reads here wants it all the same
                yield json.loads(item.raw, strict=False)

    def get_with_parameters(self, endpoint: str, parameters: Mapping[str, Any]) -> list[Any]:
        """The records of an endpoint with parameters in braces, such as {studyId}."""
        path = _path(endpoint)
        row = Endpoint(0, path, path, "", "system")
        missing = [name for name in row.parameters if name not in parameters]
        if missing:
            raise ConfigurationError(f"{path} needs a value for {', '.join(missing)}.")
        values = tuple(str(parameters[name]) for name in row.parameters)
        return self._records(path, {}, values)

    def _records(self, path: str, query: Mapping[str, Any], values: tuple[str, ...] = ()) -> list[Any]:
        envelope = open_envelope(self._fetch(path, query, values).document, what=path, single=None)
        return [msgspec.json.decode(raw) for raw in envelope.raws]

    def _fetch(self, path: str, query: Mapping[str, Any], values: tuple[str, ...] = ()) -> Answer:
        """One answer; a 404 is told to somebody who has a path and values, and no job."""
        try:
            return self.client.fetch(fill_path(path, values), query)
        except EndpointNotFound:
            about = "Either nothing has these values, or the path is wrong" if values else "Check the path"
            raise EndpointNotFound(
                f"{path}: the API answered 404. {about}; and if every path is answered so, CC_API_BASE_URL lacks its"
                " path, such as /CCSWEB."
            ) from None


def _path(endpoint: str) -> str:
    """A path as given, or that of a resource."""
    if "/" in endpoint:
        return "/" + endpoint.lstrip("/")
    return find_endpoint(endpoint).path


def _whole_path(endpoint: str) -> str:
    """The same of an endpoint that needs no parent's key.

    Raises:
        ConfigurationError: its path has parameters.
    """
    path = _path(endpoint)
    if "{" in path:
        raise ConfigurationError(f"{path} needs a parent's key: use get_with_parameters, or sample() of the resource.")
    return path
