#!/usr/bin/env bash
# How good is a prior on scenes that it has never seen? Trains one for each of five folds by scene,
# and measures each on the scenes that its fold holds out.
#
#     examples/cross_validate.sh OUT NAME [OPTION...]
#
# OUT is the folder that examples/train_prior.sh was given; its datasets are used. NAME is that of the
# recipe, and the options are those of train-denoiser that make it, such as --encoder resnet. Run it
# again, and it goes on where it was stopped. FOLDS, and STEPS of the autoencoder, in the environment
# make it shorter.
set -euo pipefail
out=$1 name=$2
shift 2
folds=${FOLDS:-5} mix=(real=3) others=()
if [ -e "$out/loops" ]; then others+=("$out/loops") mix+=(loops=1); fi
if [ -e "$out/painted" ]; then others+=("$out/painted") mix+=(painted=3); fi

priors=()
for fold in $(seq 0 $((folds - 1))); do
  view="fold$fold-of-$folds" run="$out/folds/$fold-of-$folds"
  if [ ! -e "$out/real/views/$view.index.json" ]; then
    python examples/hold_out.py "$out/real" "$fold" "$folds" > "$out/$view.txt"
    quiver refilter "$out/real" --name "$view" --without "$out/$view.txt" --filters none
  fi
  data=(--data "$out/real:$view" ${others[@]+"${others[@]}"})
  mixed=("${mix[@]/#real=/real:$view=}")
  quiver train-autoencoder laptop "${data[@]}" --mix "${mixed[@]}" --out "$run/autoencoder" \
    ${STEPS:+--steps "$STEPS"}
  quiver train-denoiser laptop "${data[@]}" --mix "${mixed[@]}" \
    --autoencoder "$run/autoencoder" --out "$run/$name" "$@"
  priors+=("$run/$name")
done
# of the real clips alone: what was made is never measured, and the baselines know real motion only
quiver evaluate-prior "${priors[@]}" --data "$out/real" --out "$out/evaluation-$name-$folds"
