#!/bin/bash
# Shifter, called directly: images that its gateway has, by name.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
image=$1
shift 8

# `shifterimg images` lists the names. More options, one by one:
#   options+=(--volume=/scratch/data:/data)   another directory
#   options+=(--module=gpu)                   what the site has modules for
options=(--workdir="$PWD")

exec shifter --image="docker:${image#docker://}" "${options[@]}" "$@"
