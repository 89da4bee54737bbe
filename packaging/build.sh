#!/bin/bash
# A package of this checkout, for sites that deploy everything as packages:
#
#     bash packaging/build.sh deb|rpm [DIRECTORY]        # DIRECTORY: where to, by default dist/
#
# deb needs dpkg-dev and debhelper, rpm needs rpm-build (Debian: rpm); both a Python 3.11 or newer with
# venv, and pip's usual access to packages (PIP_NO_INDEX=1 PIP_FIND_LINKS=DIR without a network).
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

main() {
    local kind=${1:-} target=${2:-dist} work version
    case $kind in deb | rpm) ;; *) usage >&2 && exit 2 ;; esac
    mkdir -p "$target"
    target=$(realpath "$target")
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' dispatch/slurm_oci/__init__.py)
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(stat -c %Y CHANGELOG.md)}
    export SOURCE_DATE_EPOCH
    work=$(mktemp -d "${TMPDIR:-/tmp}/slurm-oci-package.XXXXXX")
    # shellcheck disable=SC2064  # now, while the variable is there
    trap "rm -rf '$work'" EXIT
    mkdir "$work/slurm-oci-$version"
    tar -c --exclude=./.git --exclude=./dist --exclude=__pycache__ --exclude='.*_cache' . |
        tar -x --no-same-owner -C "$work/slurm-oci-$version"
    "build_$kind" "$work" "$version" >&2
    find "$work" -maxdepth 4 -name "slurm-oci[-_]*.$kind" -execdir mv -t "$target" {} + \
        -printf "$target/%f\n"
}

usage() {
    echo 'usage: bash packaging/build.sh deb|rpm [DIRECTORY]'
}

build_deb() {
    cd "$1/slurm-oci-$2"
    cp -r packaging/debian .
    printf '%s\n' "slurm-oci ($2) unstable; urgency=medium" '' '  * See CHANGELOG.md.' '' \
        " -- The slurm-oci authors <slurm-oci@localhost>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")" >debian/changelog
    dpkg-buildpackage --build=binary --no-sign
}

build_rpm() {
    cd "$1"
    rpmbuild -bb --define "_topdir $1/rpm" --define "release_of_slurm_oci $2" \
        --define "checkout $1/slurm-oci-$2" "slurm-oci-$2/packaging/slurm-oci.spec"
}

main "$@"
