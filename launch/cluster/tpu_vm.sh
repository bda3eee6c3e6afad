#!/usr/bin/env bash
# A training on Cloud TPU VMs: asks for a spot slice, installs, trains on all hosts, and begins again after preemption.
#
#     ZONE=us-west4-a TYPE=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite SOURCE=GIT_URL MOUNT='sudo mount SERVER:/share /shared' \
#         launch/cluster/tpu_vm.sh NAME --config=configs/duplex_300m.py --workdir=/shared/runs/duplex --config.mesh.fsdp=4
#
# Runs on your own machine, with gcloud; it may be stopped and started again, and ends with the training's exit code.
# MOUNT makes the folder that all hosts share; delete the slice when all is done: it costs until then.
#     gcloud compute tpus queued-resources delete NAME --zone=ZONE --force
set -uo pipefail

if (($# < 2)); then
  sed -n '2,/^set /{/^set /!p}' "$0" | sed 's/^# \{0,1\}//'
  exit 2
fi
name=$1
shift
: "${ZONE:?} ${TYPE:?} ${RUNTIME:?} ${SOURCE:?} ${MOUNT:?}"
RESTARTS_MAX=${RESTARTS_MAX:-20}
POLL_S=${POLL_S:-30}

queued() { gcloud compute tpus queued-resources "$@" --zone="$ZONE"; }
on_hosts() { gcloud compute tpus tpu-vm ssh "$name" --zone="$ZONE" --worker="$1" --command="$2"; }

# Until the slice is there; one that was taken away is asked for again.
get_slice() {
  local state
  while true; do
    state=$(queued describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE)
    case $state in
      ACTIVE) return ;;
      NONE)
        queued create "$name" --node-id="$name" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" --spot || return 1
        ;;
      SUSPENDED | FAILED) queued delete "$name" --force --quiet || return 1 ;;
      *) echo "waiting for $TYPE: $state" >&2 ;;
    esac
    sleep "$POLL_S"
  done
}

install="[ -d mmduplex ] || git clone $SOURCE mmduplex; cd mmduplex && { [ -d .venv ] || python3 -m venv .venv; } && \
.venv/bin/pip install --quiet -e '.[tpu]'; mountpoint -q /shared || $MOUNT"
# gcloud does not hand on how a command ended.
train="cd mmduplex && .venv/bin/python -u -m launch.train --distributed $(printf '%q ' "$@"); echo \$? > ~/mmduplex.exit"

for ((restart = 0; restart <= RESTARTS_MAX; restart++)); do
  get_slice || exit 1
  if on_hosts all "$install"; then
    on_hosts all "$train"
    code=$(on_hosts 0 "cat ~/mmduplex.exit; rm -f ~/mmduplex.exit" || echo 75)
    case $code in
      0 | 2 | 3 | 130) exit "$code" ;;
    esac
    echo "ended with $code: started again, from the newest checkpoint" >&2
  fi
  sleep "$POLL_S"
done
echo "ended and started again $RESTARTS_MAX times: look at the log" >&2
exit 75
