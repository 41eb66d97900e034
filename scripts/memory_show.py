"""Tell what a memory file holds.

Example: ``python scripts/memory_show.py me.safetensors``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["memory", "show", *sys.argv[1:]]))
