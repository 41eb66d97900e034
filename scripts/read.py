"""Read texts of your own and keep the memory of them in a file.

Example: ``python scripts/read.py runs/demo --memory me.safetensors book.txt``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["read", *sys.argv[1:]]))
