"""Check on a run that no later token changes an earlier loss.

Example: ``python scripts/audit.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["audit", *sys.argv[1:]]))
