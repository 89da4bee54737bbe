#!/bin/bash
# Apptainer, called directly: SIF and squashfs files, directories, bundles.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
image=$1 step=$7
shift 8

# Home, /tmp and the job's directory apptainer binds itself. More options, one by one:
#   options+=(--mount type=bind,src=/scratch,dst=/scratch)   another directory; ,ro for read-only
#   options+=(--nv)                 NVIDIA's libraries; --rocm for AMD's
#   options+=(--writable-tmpfs)     writes that are lost at the end
#   options+=(--cleanenv)           without the job's variables
#   options+=(--no-home)
options=()

# Of an OCI bundle, apptainer takes the root file system.
[ -f "$image/config.json" ] && image=$image/rootfs

# The script of sbatch (step 4294967291) lies in a directory of Slurm's that must be in the container.
[ "$step" = 4294967291 ] && options+=(--mount "type=bind,src=${1%/*},dst=${1%/*},ro")

# exec, not run: run would hand the command to the image's own script. exec before it, so that signals
# reach the command.
exec apptainer --silent exec "${options[@]}" "$image" "$@"
