#!/usr/bin/env bash
# From lists of clips to a prior, and a photograph that moves.
#
#     examples/train_prior.sh OUT REAL.csv [LOOPS.csv [PHOTO]]
#
# REAL.csv lists videos of real things that sway before a static camera (columns uri, source and
# licence; one source is one scene). LOOPS.csv lists videos that were made, such as published loops;
# it may be "". Painted scenes are added to both. Run it again, and it goes on where it was stopped.
#
# STEPS (of each training) and SCENES (painted) in the environment make it shorter.
set -euo pipefail
out=$1 real=$2 loops=${3:-} photo=${4:-}

extract() { # what the lists name was chosen by eye: the filters would only judge it again
  quiver extract-flow --clips "$1" --out "$2" --filters none --test-fraction 0 --stride 30 \
    --windows-per-shard 16
}
extract "$real" "$out/real"
data=("$out/real") mix=(real=3)
if [ -n "$loops" ]; then
  extract "$loops" "$out/loops"
  data+=("$out/loops") mix+=(loops=1)
fi
quiver make-clips --scenes "${SCENES:-1000}" --test-fraction 0 --out "$out/painted"
data+=("$out/painted") mix+=(painted=3)

quiver train-autoencoder laptop --data "${data[@]}" --mix "${mix[@]}" --out "$out/autoencoder" \
  ${STEPS:+--steps "$STEPS"}
quiver train-denoiser laptop --data "${data[@]}" --mix "${mix[@]}" \
  --autoencoder "$out/autoencoder" --out "$out/prior" \
  ${STEPS:+--steps "$STEPS" --coordinate-steps "$STEPS" --latent-variants 1}
if [ -n "$photo" ]; then
  quiver animate "$photo" --checkpoint "$out/prior" --out "$out/film.mp4"
  quiver export-page "$photo" --checkpoint "$out/prior" --out "$out/page.html"
fi
