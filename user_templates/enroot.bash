#!/bin/bash
# enroot, called directly: squashfs files, and what it has unpacked under a name.
#
# Called for every task, in the job's environment and directory, with these words:
#   $1 image as given to --container   $2 Slurm's directory for the step   $3 user   $4 uid
#   $5 node   $6 job   $7 step   $8 task on the node; then the command, word by word
image=$1 uid=$4 step=$7
shift 8

# With home and the job's directory. More options, one by one:
#   options+=(--mount /scratch:/scratch:none:x-create=dir,rbind)   another directory
#   options+=(--rw)                                                writes that are lost at the end
options=(--mount "$PWD:$PWD:none:x-create=dir,rbind")
export ENROOT_MOUNT_HOME=y ENROOT_LOGIN_SHELL=n

# The script of sbatch (step 4294967291) lies in a directory of Slurm's that must be in the container.
[ "$step" = 4294967291 ] && options+=(--mount "${1%/*}:${1%/*}:none:x-create=dir,rbind")

# enroot passes no variables of the job on but those that are named.
for name in $(compgen -e); do
    case $name in
    SLURM* | PMI* | OMP_* | CUDA_* | NVIDIA_*) options+=(--env "$name") ;;
    esac
done

# A job has no runtime directory of its own in many sites: one that nobody else can have made.
if [ ! -d "${XDG_RUNTIME_DIR:-/none}" ]; then
    export XDG_RUNTIME_DIR=/tmp/run-$uid
    mkdir -m 700 "$XDG_RUNTIME_DIR" 2>/dev/null
    [ -O "$XDG_RUNTIME_DIR" ] && [ ! -L "$XDG_RUNTIME_DIR" ] || exit 125
fi

# enroot starts in the image's directory: the job's is entered inside.
# shellcheck disable=SC2016 # it is the inner shell that replaces these
exec enroot start "${options[@]}" -- "$image" /bin/sh -c 'cd -- "$0" && exec "$@"' "$PWD" "$@"
