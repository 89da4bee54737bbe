#!/bin/bash
# nvidia-container-runtime for bundles, the site's default for all else.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

# Its direct call takes a bundle of the task's own, as in the template `runc`, and a `create` and a
# `start` instead of `run`: only then does it add the GPUs. The dispatcher does that.
if [ -f "$1/config.json" ]; then
    # What the job itself asks for, comes first.
    export SLURM_OCI_RUNTIME=${SLURM_OCI_RUNTIME:-nvidia-container-runtime}
fi
exec /opt/slurm-oci/slurm-oci-run-default "$@"
