#!/bin/bash
# What both packages consist of, put below DIRECTORY:
#
#     bash packaging/stage.sh DIRECTORY
#
# /usr/lib/slurm-oci is what `install` copies from: the code with all that it imports, and the files
# for the prefix. The package's own scripts then call `install` and `uninstall`, as everybody does.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/python.sh
. tests/python.sh

main() {
    local root=$1 home work python
    home=$root/usr/lib/slurm-oci
    python=$(get_python)
    work=$(mktemp -d)
    # shellcheck disable=SC2064  # now, while the variable is there
    trap "rm -rf '$work'" EXIT
    "$python" -m venv "$work/venv"
    pip() {
        "$work/venv/bin/python" -m pip --quiet --disable-pip-version-check "$@"
    }
    pip wheel --wheel-dir "$work/wheels" .
    pip install --no-index --find-links "$work/wheels" --no-compile --target "$work/lib" slurm-oci

    mkdir -p "$home/bin" "$root/usr/bin" "$root/usr/share"
    mv "$work/lib/share/slurm-oci/opt" "$home/opt-slurm-oci"
    mv "$work/lib/share/slurm-oci/user_templates" "$home/user_templates"
    mv "$work/lib/share/man" "$root/usr/share/man"
    rm -r "$work/lib/share" "$work/lib/bin"
    # One package for every architecture: PyYAML does without its compiled part.
    find "$work/lib" -name '*.so' -delete
    sed -i '/\.so,/d' "$work/lib"/*.dist-info/RECORD
    mv "$work/lib" "$home/lib"
    mkdir -p "$root/usr/share/doc/slurm-oci/docs"
    cp README.md CHANGELOG.md "$root/usr/share/doc/slurm-oci"
    cp docs/*.md docs/*.svg "$root/usr/share/doc/slurm-oci/docs"
    rm "$root/usr/share/doc/slurm-oci/docs"/{index,changelog}.md # for the site
    find "$home" -name __pycache__ -prune -exec rm -r {} +
    # Nothing is to lie there beside what the package knows of, no compiled modules either.
    sed '1s/ -IS/ -ISB/' opt-slurm-oci/slurm-oci-plugins >"$home/bin/slurm-oci-plugins"
    chmod 755 "$home/bin/slurm-oci-plugins"
    ln -s /opt/slurm-oci/bin/slurm-oci-plugins "$root/usr/bin/slurm-oci-plugins"
    completion bash "$root/usr/share/bash-completion/completions/slurm-oci-plugins"
    completion fish "$root/usr/share/fish/vendor_completions.d/slurm-oci-plugins.fish"
    completion zsh "$root/usr/share/zsh/${ZSH_FUNCTIONS:-site-functions}/_slurm-oci-plugins"
}

completion() {
    mkdir -p "${2%/*}"
    "$python" -ISB "$home/bin/slurm-oci-plugins" completion "$1" >"$2"
}

main "$@"
