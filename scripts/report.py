"""Write the report of a run, one HTML page made from score files.

Example: ``python scripts/report.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["report", *sys.argv[1:]]))
