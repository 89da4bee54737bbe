# shellcheck shell=bash
# Sourced by demo.sh and run.sh: a Python that is new enough, and this checkout in an environment
# of its own below the user's cache.

unset PYTHONHOME PYTHONPATH
if [ -n "${XDG_CACHE_HOME:-}" ]; then
    cache=$XDG_CACHE_HOME/slurm-oci
elif [ "$(id -u)" = 0 ]; then
    cache=/var/cache/slurm-oci-tests # some tests become another user, who may not enter root's home
else
    cache=${HOME:?is not set, and XDG_CACHE_HOME neither}/.cache/slurm-oci
fi

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

fail() {
    say "error: $*"
    exit 1
}

# environment NAME [GROUP]: prints the directory of the virtual environment NAME, made anew where
# what it was made from has changed, with the dependencies of pyproject.toml's GROUP.
# An active one that holds this checkout already is used as it is.
environment() {
    if holds_this_checkout "${VIRTUAL_ENV:-}"; then
        printf '%s\n' "$VIRTUAL_ENV"
        return
    fi
    local place python made_from
    place=$cache/venv-$1-$(printf %s "$PWD" | cksum | cut -d' ' -f1)
    python=$(get_python)
    made_from=$("$python" -V; cat pyproject.toml dispatch/slurm_oci/__init__.py)
    mkdir -p "$cache"
    # Two at once: the second waits here and finds it made.
    exec 9>"$place.lock"
    flock 9
    if [ "$made_from" != "$(cat "$place/made-from" 2>/dev/null)" ]; then
        say "making a virtual environment in $place"
        "$python" -m venv --clear "$place"
        requirements "$python" "${2:-}" >"$place/requirements.txt"
        "$place/bin/python" -m pip install -qq --disable-pip-version-check \
            --requirement "$place/requirements.txt" --editable . >&2
        printf '%s\n' "$made_from" >"$place/made-from"
    fi
    printf '%s\n' "$place"
}

holds_this_checkout() {
    local found
    [ -x "$1/bin/slurm-oci-plugins" ] || return 1
    found=$(cd / && "$1/bin/python" -c 'import slurm_oci; print(slurm_oci.__file__)') || return 1
    [ "$found" -ef dispatch/slurm_oci/__init__.py ]
}

# The lines of a dependency group (pip itself reads groups only from 25.1 on).
requirements() {
    "$1" -c '
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    groups = tomllib.load(file)["dependency-groups"]
print(*groups[sys.argv[1]] if sys.argv[1] else [], sep="\n")' "$2"
}

# Prints the path of a Python that the program runs on and that can make virtual environments.
get_python() {
    local needed='Python 3.11 or newer, with venv'
    find_python && return
    command -v apt-get >/dev/null || fail "$needed, is needed: install it and come back"
    [ "$(id -u)" = 0 ] || fail "$needed, is needed: sudo apt-get install python3-venv"
    apt_install python3-venv
    find_python || fail "$needed, is needed; this system's python3 is $(python3 -V): install a newer one"
}

find_python() {
    local name
    # The system's first: root's own may lie where others cannot reach it.
    for name in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# Installs packages on this machine, saying so; a fresh one has no package lists yet.
apt_install() {
    say "installing $* on this machine with apt-get"
    local install=(apt-get -qq -y --no-install-recommends install "$@")
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" >/dev/null 2>&1 || { apt-get -qq update >&2 && "${install[@]}" >/dev/null; }
}
