#!/bin/bash
# Sarus, called directly: images that `sarus pull` has fetched, by name.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
image=$1
shift 8

# `sarus images` lists the names. More options, one by one:
#   options+=(--mount=type=bind,source=/scratch,destination=/scratch)   another directory
#   options+=(--mpi)                                                    the node's MPI in the container
# The empty entry point lets the command be what runs.
options=(--workdir="$PWD" --mount="type=bind,source=$PWD,destination=$PWD" --entrypoint "")

exec sarus run "${options[@]}" "${image#docker://}" "$@"
