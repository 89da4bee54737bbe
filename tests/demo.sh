#!/bin/bash
# What `srun --container=IMAGE COMMAND` would do, tried without Slurm:
#
#     bash tests/demo.sh
#
# On a fresh Debian-like machine, as root or as an ordinary user. It makes a small image in a
# temporary directory, shows each command before its output, and removes the image again. What is
# kept is a virtual environment in ~/.cache/slurm-oci (root: /var/cache/slurm-oci-tests).
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/python.sh

main() {
    local venv work
    venv=$(environment demo)
    work=$(mktemp -d "${TMPDIR:-/tmp}/slurm-oci-demo.XXXXXX")
    # shellcheck disable=SC2064  # now, while the variable is there
    trap "rm -rf '$work'" EXIT
    PATH=$venv/bin:$PATH
    make_image "$work/tiny"
    cd "$work"

    title 'Which container runtimes has this machine? One is built in.'
    show 0 slurm-oci-plugins list

    title 'What would be done for an image, and why? Nothing is started.'
    show 0 slurm-oci-plugins explain ./tiny -- /bin/sh -c 'echo hello'

    title "Inside, the image's own files are the root file system."
    show 0 slurm-oci-plugins run ./tiny -- /bin/cat /etc/os-release

    title 'Words of the command arrive as they are, and so does its exit status.'
    # shellcheck disable=SC2016  # for the shell in the container
    show 7 slurm-oci-plugins run ./tiny -- /bin/sh -c 'printf "<%s>\n" "$@"; exit 7' sh "it's" '$HOME' 'two  words' ''

    title 'A mistake is one line that says what is wrong, and what to do.'
    show 125 slurm-oci-plugins run ./tinny -- /bin/true
}

# The host's busybox, or its shell and two more programs, as a root file system.
make_image() {
    local image=$1 program
    mkdir -p "$image"/{bin,dev,etc,proc,sys,tmp}
    printf '%s\n' 'NAME="a tiny image"' 'ID=tiny' >"$image/etc/os-release"
    if command -v busybox >/dev/null; then
        copy_program busybox "$image"
        for program in sh cat echo id ls; do
            ln -s busybox "$image/bin/$program"
        done
    else
        for program in sh cat id ls; do
            copy_program "$program" "$image"
        done
    fi
}

# A program and the libraries that it is linked with, each at its own path.
copy_program() {
    local program library
    program=$(command -v "$1")
    cp -L "$program" "$2/bin/$1"
    ldd "$program" 2>/dev/null | tr -s '[:space:]' '\n' | grep '^/' | while read -r library; do
        install -D "$library" "$2$library"
    done || true # a program without libraries
}

title() {
    printf '\n# %s\n' "$1"
}

# show STATUS COMMAND…: the command as one would type it and its output. Fails at another exit status.
show() {
    local expected=$1 word line='$' status=0
    shift
    for word in "$@"; do
        case $word in
        '' | *[!A-Za-z0-9_./=:,+-]*) line+=" ${word@Q}" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '%s\n' "$line"
    "$@" 2>&1 || status=$?
    [ "$status" = 0 ] || printf '[exit status %s]\n' "$status"
    [ "$status" = "$expected" ] || fail "that was to end with exit status $expected"
}

main "$@"
