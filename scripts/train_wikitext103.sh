#!/usr/bin/env bash
# Train on WikiText-103 with several processes, one for each GPU, and share the articles among them for reading.
#
#   scripts/train_wikitext103.sh PROCESSES [DIR]
#
# Needs:  GPUs (not measured; docs/scaling.md estimates the cost). To try it on CPUs, export ACCELERATE_USE_CPU=true.
#         DIR, a folder with wiki.train.tokens, ...; without it WikiText-103 is downloaded.
# Makes:  runs/wikitext-103.
# Takes:  estimated 20 minutes on one A100 for ten epochs, and an hour for each rule.
# Processes must divide pretrain.lanes (128). Another number of them goes on from the checkpoint of an interrupted training.
set -euo pipefail
run=runs/wikitext-103
launch="accelerate launch --multi_gpu --num_processes ${1:?usage: train_wikitext103.sh PROCESSES [DIR]} \
  --num_machines 1 --mixed_precision no --dynamo_backend no -m dynlm"

[[ -e $run/model.json ]] || $launch pretrain --config wikitext-103 ${2:+--corpus.path "$2"}

# Under the article policy articles are independent, so that processes share them.
dynlm tune $run --memory.rule rms --memory.reset article
$launch metatrain $run --memory.reset article --metatrain.lanes 8
for rule in none rms meta; do
  $launch score $run --memory.rule $rule --memory.reset article --memory.lanes 8
done

dynlm compare $run
dynlm report $run
