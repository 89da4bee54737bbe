#!/bin/bash
# Charliecloud's ch-run, called directly: directories and bundles, squashfs files too.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
image=$1 step=$7
shift 8

# --write-fake lets ch-run make what it mounts on; it came with Charliecloud 0.36. HOME is told as it is,
# since ch-run would change it. More options, one by one:
#   options+=(--bind /scratch:/scratch)        another directory
#   options+=(--unset-env='CONDA_*')           without these variables of the job
#   options+=(--write)                         instead of --write-fake: changes a directory itself
options=(--write-fake --bind "$HOME:$HOME" --env-no-expand --set-env="HOME=$HOME" --cd "$PWD")
[[ $PWD/ == "$HOME"/* || $PWD/ == /tmp/* ]] || options+=(--bind "$PWD:$PWD")

# Of an OCI bundle, ch-run takes the root file system.
[ -f "$image/config.json" ] && image=$image/rootfs

# The script of sbatch (step 4294967291) lies in a directory of Slurm's that must be in the container.
[ "$step" = 4294967291 ] && options+=(--bind "${1%/*}:${1%/*}")

# From a squashfs file ch-run stays as the command's parent and passes no signal on. Where that matters,
# let the dispatcher do it: SLURM_OCI_RUNTIME=charliecloud and slurm-oci-run-default.
exec ch-run "${options[@]}" "$image" -- "$@"
