"""Train a tokenizer and the LSTM of level 1.

Example: ``python scripts/pretrain.py --config configs/wikitext-2-small.yaml --corpus.path DIR``

On several GPUs: ``accelerate launch scripts/pretrain.py --config configs/wikitext-103.yaml``.
"""

import sys

from dynlm.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main(["pretrain", *sys.argv[1:]]))
