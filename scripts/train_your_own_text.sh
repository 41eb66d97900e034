#!/usr/bin/env bash
# Train and compare on a corpus of your own.
#
#   scripts/train_your_own_text.sh NAME DIR
#
# Needs:  DIR, a folder of texts (one article a file), JSON lines, Parquet, or files in WikiText's format;
#         data/README.md has the formats. A few hundred thousand words are enough to see the memory work.
# Makes:  runs/NAME.
# Takes:  minutes for 250,000 words, an hour for two million, on two cores.
set -euo pipefail
name=${1:?usage: train_your_own_text.sh NAME DIR}
dir=${2:?usage: train_your_own_text.sh NAME DIR}

dynlm corpus --corpus.path "$dir"

# The demo's small model; for a larger corpus take --config wikitext-2-small. Options of a config can be overridden.
[[ -e runs/$name/model.json ]] || dynlm pretrain --config demo --run.name "$name" --corpus.path "$dir"

# Under the article policy the dynamic weights start again from the static ones at each article.
for reset in stream article; do
  dynlm tune "runs/$name" --memory.rule rms --memory.reset $reset
  dynlm score "runs/$name" --split test --memory.rule rms --memory.reset $reset
done
dynlm score "runs/$name" --split test --memory.rule none

dynlm compare "runs/$name"
dynlm report "runs/$name"
