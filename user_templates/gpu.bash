#!/bin/bash
# GPU settings for the jobs that have GPUs.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

if [ -n "${SLURM_STEP_GPUS:-${SLURM_JOB_GPUS:-}}" ]; then
    if [ -e /dev/nvidiactl ]; then
        vendor=nvidia
    elif [ -e /dev/kfd ]; then
        vendor=amd
    else
        vendor=auto
    fi
    # The vendor's libraries from the node. A runtime that cannot bring them refuses the task, so that
    # nothing runs without its GPUs by mistake: `slurm-oci-plugins list` and `show` tell which can.
    export SLURM_OCI_GPU=${SLURM_OCI_GPU:-$vendor}
fi
exec /opt/slurm-oci/slurm-oci-run-default "$@"
