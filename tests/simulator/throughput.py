"""How fast the simulator serves: `python -m tests.simulator.throughput`. A measurement, not a test."""

from __future__ import annotations

import http.client
import sys
import time
from pathlib import Path

from clinical_conductor.simulator import SimulatorProcess


def main(wanted: int = 100_000) -> None:
    """Read patients and patient visits at scale 1 by keyset and print records per second and the memory it took."""
    with SimulatorProcess(1.0) as simulator:
        host = simulator.base_url.split("/")[2]
        connection = http.client.HTTPConnection(host)
        for path, first in (("/patients/odata", 500_001), ("/patient-visits/odata", 3_000_001)):
            last, read, size = 0, 0, 0
            cpu, began = _cpu(simulator.pid), time.perf_counter()
            while read < wanted:
                query = f"$top=1000&$orderby=id&$filter=id%20gt%20{last}"
                connection.request("GET", f"/CCSWEB/api/v1{path}?{query}", headers={"X-ApiKey": simulator.api_key})
                body = connection.getresponse().read()
                last = first + read + 999  # the ids of the first day have no gaps
                read += 1000
                size += len(body)
            seconds, cpu = time.perf_counter() - began, _cpu(simulator.pid) - cpu
            sys.stdout.write(
                f"{path}: {read / seconds:,.0f} records/s ({read / cpu:,.0f} per second of its core, "
                f"{size / read:,.0f} bytes each)\n"
            )
        status = Path(f"/proc/{simulator.pid}/status")
        if status.exists():
            sys.stdout.write(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")) + "\n")


def _cpu(pid: int) -> float:
    """Processor seconds a process used so far."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main()
