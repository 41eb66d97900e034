#!/usr/bin/env bash
# Train and compare on a corpus of your own, under both reset policies.
#
#   scripts/train_your_own_text.sh NAME DIR
#
# Needs:  DIR, a folder of texts, JSON lines, Parquet or dumps of Wikipedia, mixed or compressed; docs/quickstart.md says
#         what is read. 100,000 words or more: fewer are read by a model at hand, and nothing is trained.
# Makes:  runs/NAME.
# Takes:  minutes for 150,000 words, an hour for two million, on two cores.
set -euo pipefail
name=${1:?usage: train_your_own_text.sh NAME DIR}
dir=${2:?usage: train_your_own_text.sh NAME DIR}

# Trains, tunes, meta-trains, scores and reports, with options fitted to the size of the texts.
dynlm learn "$dir" --run.name "$name"

# Under the article policy the dynamic weights start again from the static ones at each article.
dynlm tune "runs/$name" --memory.rule rms --memory.reset article
dynlm score "runs/$name" --split test --memory.rule rms --memory.reset article

dynlm compare "runs/$name"
dynlm report "runs/$name"
