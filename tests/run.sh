#!/bin/bash
# Every check and every test:
#
#     bash tests/run.sh [--without-slurm] [-- PYTEST-ARGUMENT...]
#
# On a fresh Debian-like machine it installs what is missing. The tests on a real Slurm need root:
# they build Debian root file systems in ~/.cache/slurm-oci, once, a few GB, and run all of Slurm in
# namespaces of its own. --without-slurm leaves them out.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/python.sh

main() {
    local slurm=yes venv
    while [ $# -gt 0 ]; do
        case $1 in
        --without-slurm) slurm=no ;;
        --) shift && break ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && exit 2 ;;
        esac
        shift
    done
    if [ $slurm = yes ] && [ "$(id -u)" != 0 ]; then
        fail 'the tests on a real Slurm need root: sudo bash tests/run.sh, or leave them out: --without-slurm'
    fi

    get_programs
    venv=$(environment tests dev)
    PATH=$venv/bin:$PATH
    keep_caches_out_of_the_checkout
    check ruff check .
    check ruff format --check .
    check mypy
    check shellcheck "${shell_scripts[@]}"
    check python -m sphinx --quiet --fail-on-warning docs "$cache/site"
    # Apart from each other, as each folder has a conftest.py of its own for its tests to import.
    tests "$@" --ignore=tests/real tests
    if [ $slurm = yes ]; then
        build_roots
        on_real_slurms "$@"
    fi
    [ ${#failed[@]} = 0 ] || fail "failed: ${failed[*]}"
}

tests() {
    say "pytest $*"
    python -m pytest -o cache_dir="$cache/pytest" "$@" || failed+=("pytest $*")
}

# One run for each suite, at the same time, as they wait more than they work. What each says comes
# at its end. xargs, as a background job of a script would not get a Ctrl-C.
on_real_slurms() {
    say "pytest $* tests/real, at the same time on: $SLURM_OCI_SUITES"
    logs=$(mktemp -d)
    trap 'rm -rf "$logs"' EXIT
    export -f on_real_slurm
    tr ' ' '\n' <<<"$SLURM_OCI_SUITES" |
        xargs -P 2 -I SUITE bash -c 'on_real_slurm "$@"' bash SUITE "$logs" -o cache_dir="$cache/pytest" "$@" ||
        failed+=("pytest $* tests/real")
}

on_real_slurm() {
    local suite=$1 logs=$2 status=0
    shift 2
    SLURM_OCI_SUITES=$suite python -m pytest "$@" tests/real >"$logs/$suite" 2>&1 || status=$?
    flock "$logs" cat "$logs/$suite"
    return $status
}

usage() {
    echo 'usage: bash tests/run.sh [--without-slurm] [-- PYTEST-ARGUMENT...]'
}

# Programs without which tests are left out, and Debian's package of each.
programs=(
    busybox:busybox-static mount:mount mksquashfs:squashfs-tools setfacl:acl strace:strace zstd:zstd
    fish:fish man:man-db mandoc:mandoc mkfs.btrfs:btrfs-progs zsh:zsh
    dh:debhelper dpkg-buildpackage:dpkg-dev rpmbuild:rpm
)

get_programs() {
    local entry packages=()
    for entry in "${programs[@]}"; do
        command -v "${entry%:*}" >/dev/null || packages+=("${entry#*:}")
    done
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt_install "${packages[@]}"; then
        return
    fi
    say "!!! LEFT OUT: the tests that need what is missing here: sudo apt-get install ${packages[*]}"
}

shell_scripts=(.ci/run packaging/*.sh tests/*.sh opt-slurm-oci/slurm-oci-run-default user_templates/*.bash)

keep_caches_out_of_the_checkout() {
    export RUFF_CACHE_DIR=$cache/ruff MYPY_CACHE_DIR=$cache/mypy HYPOTHESIS_STORAGE_DIRECTORY=$cache/hypothesis
    export PYTHONPYCACHEPREFIX=$cache/pycache
}

# A check that fails does not keep the tests from running.
failed=()
check() {
    say "$*"
    "$@" || failed+=("$1")
}

# trixie's Slurm must be there. sid moves: on a day when it cannot be installed the tests go on
# without it (they read SLURM_OCI_SUITES).
build_roots() {
    python tests/real/slurm_root.py build trixie >/dev/null || fail 'without trixie there is no Slurm to test with'
    export SLURM_OCI_SUITES=trixie
    if python tests/real/slurm_root.py build sid >/dev/null; then
        SLURM_OCI_SUITES='trixie sid'
    else
        say '!!! LEFT OUT: Debian sid cannot be installed today, so the newest Slurm is NOT tested (see above)'
    fi
}

main "$@"
