"""Meta-train the memory's rates on articles that the LSTM has not seen.

Example: ``python scripts/metatrain.py runs/wikitext-2-small``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["metatrain", *sys.argv[1:]]))
