#!/usr/bin/env bash
# A training on a SLURM cluster, one process a GPU; it goes on after preemption, the time limit and lost nodes.
#
#     sbatch --nodes=2 launch/cluster/slurm.sh --config=configs/duplex_300m.py --workdir=SHARED/duplex --config.mesh.fsdp=8
#
# Submit from the repository, in whose virtual environment (.venv, or $VIRTUAL_ENV) `pip install -e .[cuda]` was run, on
# a file system that all nodes see. Options of sbatch on the command line go before those in this file.
#SBATCH --job-name=mmduplex
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Two minutes before the time is up: long enough to save.
#SBATCH --signal=TERM@120
set -uo pipefail

RESTARTS_MAX=${RESTARTS_MAX:-20}
PYTHON=${VIRTUAL_ENV:-.venv}/bin/python

# One task that fails ends the step; so the others need not wait until they miss it.
srun --kill-on-bad-exit=1 --wait=60 "$PYTHON" -u -m launch.train --distributed "$@"
code=$?

case $code in
  0 | 2 | 3 | 130)
    # Done; or what starting again would not mend: a misfit (2), a loss that is not finite (3), a person (130).
    exit $code
    ;;
esac
if ((${SLURM_RESTART_COUNT:-0} >= RESTARTS_MAX)); then
  echo "ended with $code, and was started again ${SLURM_RESTART_COUNT} times already: look at the log, then sbatch again" >&2
  exit $code
fi
echo "ended with $code: started again, from the newest checkpoint" >&2
scontrol requeue "$SLURM_JOB_ID"
