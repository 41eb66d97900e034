#!/usr/bin/env bash
# Train an LSTM on WikiText-2, learn its memory, and compare it with level 1 and dynamic evaluation on articles 31-60 of valid.
#
#   scripts/train_wikitext2.sh [DIR]
#
# Needs:  DIR, a folder with train.txt and valid.txt (or wiki.train.tokens, ...); without it WikiText-2 is downloaded.
# Makes:  runs/wikitext-2-small (model, tuned rates, score files, figures/report.html).
# Takes:  about 90 minutes on two cores, half of it training the LSTM; 2 GB of memory.
# A training that was stopped goes on from its newest checkpoint; scores that exist are not computed again.
set -euo pipefail
run=runs/wikitext-2-small

# What will be read: articles, words and types of each split.
dynlm corpus --config wikitext-2-small ${1:+--corpus.path "$1"}

# Two million parameters, seven epochs. A run that is trained already is kept.
[[ -e $run/model.json ]] || dynlm pretrain --config wikitext-2-small ${1:+--corpus.path "$1"}

# Dynamic evaluation: rates searched on articles 1-30 of valid.
dynlm tune $run --memory.rule rms

# Level 3: learning rate and decay of each tensor, scaled by importance and by what the last segment looked like.
dynlm metatrain $run --memory.g level-3 --g.boundary_reset true --g.importance true --g.slow_rate 0.5 \
  --g.features '[doc_age_20,doc_age_100,section_age,loss_delta,grad_rms,weight_distance]'

# A cache beside it, whose share of each token's probability is decided by a learned gate.
dynlm metatrain $run --memory.rule meta --memory.g level-3 --memory.cache learned

dynlm score $run --articles 31-60 --memory.rule none
dynlm score $run --articles 31-60 --memory.rule rms
dynlm score $run --articles 31-60 --memory.rule meta --memory.g level-3
dynlm score $run --articles 31-60 --memory.rule meta --memory.g level-3 --memory.cache learned

dynlm compare $run
dynlm report $run
