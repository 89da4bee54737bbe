#!/bin/bash
# Does what the site does by default: a start for changes of your own.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

# Change here what you like: the environment, or the words, as in  set -- /other/image "${@:2}".
# Settings are in slurm-oci's docs/settings.md, for instance:
#   export SLURM_OCI_RUNTIME=apptainer
#   export SLURM_OCI_MOUNTS=/scratch:/scratch,/data:/data:ro

exec /opt/slurm-oci/slurm-oci-run-default "$@"
