#!/bin/bash
# Another runtime for the jobs of one project, the site's default for all others.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

# A job belongs to the project if it was submitted from below this directory. By account it would be
# [ "$SLURM_JOB_ACCOUNT" = genomics ], by the job's name [[ $SLURM_JOB_NAME == genomics-* ]].
project=$HOME/project
runtime=unshare

if [[ $SLURM_SUBMIT_DIR/ == "$project"/* ]]; then
    # What the job itself asks for, comes first.
    export SLURM_OCI_RUNTIME=${SLURM_OCI_RUNTIME:-$runtime}
fi
exec /opt/slurm-oci/slurm-oci-run-default "$@"
