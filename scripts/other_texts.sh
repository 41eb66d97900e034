#!/usr/bin/env bash
# Read five kinds of text that a model has not met: a dictionary, quotations in English and in German, essays, and
# questions with answers as one long article. Without a memory, with rms, with the learned g, and with rms
# that is tuned on that very text, which the others are not.
#
#   scripts/other_texts.sh MODEL FOLDER
#
# Needs:  a packed model, such as data/models/wikitext-2-small, and Debian's packages (apt-get, dpkg-deb).
# Makes:  FOLDER/KIND/test.jsonl (scripts/other_texts.py), and a copy of the model with the scores in FOLDER/models/KIND.
# Takes:  ten minutes a kind on one core.
set -euo pipefail
model=${1:?usage: other_texts.sh MODEL FOLDER}
folder=${2:?usage: other_texts.sh MODEL FOLDER}

[[ -e $folder/questions/test.jsonl ]] || python3 "$(dirname "$0")/other_texts.py" "$folder"
for kind in dictionary quotations german-quotations essays questions; do
  models=$folder/models/$kind
  copy=$models/$(basename "$model")
  text=(--run.folder "$models" --corpus.path "$folder/$kind" --memory.reset stream)

  for rule in none rms meta; do
    dynlm score "$model" "${text[@]}" --split test --memory.rule $rule
  done
  dynlm tune "$copy" "${text[@]}" --memory.rule rms --tune.split test --tune.articles all --tune.tokens 24000
  dynlm score "$copy" "${text[@]}" --split test --memory.rule rms --name rms-tuned-on-it
  dynlm compare "$copy"
done
