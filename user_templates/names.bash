#!/bin/bash
# Short names for images: srun --container=tools …
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word

images=$HOME/images

case $1 in
tools) image=$images/tools-2.3.sqsh ;;
torch) image=$images/torch ;;
*/* | *:*) image=$1 ;; # a path, or a name in a registry
*)
    # Any other word is the image of that name, whatever its ending, if there is one.
    image=$1
    for found in "$images/$1" "$images/$1".*; do
        [ -e "$found" ] && image=$found && break
    done
    ;;
esac
exec /opt/slurm-oci/slurm-oci-run-default "$image" "${@:2}"
