"""`python -m clinical_conductor.simulator`: serve, and print the base URL once it is up."""

from __future__ import annotations

import argparse
import json
import sys
import threading

from clinical_conductor.simulator.simulator import Simulator


def main() -> None:
    """Serve until interrupted, or until standard input is closed."""
    parser = argparse.ArgumentParser(description="A simulated Clinical Conductor API on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scale", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--settings", default="{}", help="any argument of Simulator, as JSON; wins over the others")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    options = parser.parse_args()
    settings = {"port": options.port, "scale": options.scale, "seed": options.seed, **json.loads(options.settings)}
    with Simulator(**settings) as simulator:
        sys.stdout.write(f"{simulator.base_url}\n")
        sys.stdout.flush()
        try:
            if options.until_stdin_closes:
                sys.stdin.read()
            else:
                threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
