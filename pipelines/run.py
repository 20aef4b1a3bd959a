"""`python pipelines/run.py --resources studies` is `trialsync-etl run --resources studies`, from a checkout.

The other commands work too: `python pipelines/run.py status`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clinical_conductor.cli import main

if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(given if given and not given[0].startswith("-") else ["run", *given]))
