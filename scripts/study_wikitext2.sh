#!/usr/bin/env bash
# Which variant reads WikiText-2 best? All variants of the config, both reset policies, in order and shuffled, tuned alike.
#
#   scripts/study_wikitext2.sh [DIR]
#
# Needs:  DIR, a folder with train.txt and valid.txt; without it WikiText-2 is downloaded.
# Makes:  runs/wikitext-2-small/study: README.md, a table with intervals, curves, the words that gained and lost most.
# Takes:  about 45 minutes to train the LSTM on two cores (once), then some hours on one; a night with all seeds.
# Stopped at any moment, the same command goes on where it was.
set -euo pipefail

dynlm study --config study-wikitext-2 ${1:+--corpus.path "$1"}

# Texts made to hurt: glued snippets, one token repeated, shuffled words, two articles in turn, another language.
dynlm stress runs/wikitext-2-small --memory.rule meta --memory.g level-3 --memory.cache learned
