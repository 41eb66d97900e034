"""Tell what a corpus holds: articles, words, types and the longest article of each split.

Example: ``python scripts/corpus.py --corpus.path DIR``
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["corpus", *sys.argv[1:]]))
