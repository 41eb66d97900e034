#!/usr/bin/env bash
# The steps of `dynlm demo`, one command each: train, tune, meta-train, score, compare, draw, check.
#
#   scripts/demo_step_by_step.sh
#
# Needs:  nothing; the corpus is the documentation of the running Python's standard library.
# Makes:  runs/demo with score files, and figures and a report in runs/demo/figures.
# Takes:  about 4 minutes on two cores.
set -euo pipefail
run=runs/demo

# The tokenizer and the LSTM (level 1). A run that is trained already is kept.
[[ -e $run/model.json ]] || dynlm pretrain --config demo

# Dynamic evaluation (rms): its learning rate and decay, searched on validation articles.
dynlm tune $run --memory.rule rms

# The learned rule (meta), starting from the tuned rms, on training articles that the LSTM has not seen.
dynlm metatrain $run

# Each test article is scored token by token; a segment is learned from only after it was scored.
for rule in none rms meta; do
  dynlm score $run --split test --memory.rule $rule
done

dynlm compare $run    # the table, with bootstrap intervals over articles
dynlm plot $run       # curves (PNG, SVG)
dynlm heatmap $run    # a passage token by token (PNG, SVG, HTML)
dynlm report $run     # everything on one HTML page

# No loss may depend on a later token, and with all rates zero every rule has to equal level 1.
dynlm check $run --all --places 4
