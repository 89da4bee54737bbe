"""The documentation as a site, built by Sphinx: sphinx-build --fail-on-warning docs SITE"""

project = "slurm-oci"
author = copyright = "The slurm-oci authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project


def setup(app):
    app.connect("include-read", link_within_the_site)


def link_within_the_site(app, path, page, content):
    """README's links to files of the repository that are pages here."""
    content[0] = content[0].replace("(CHANGELOG.md)", "(docs/changelog.md)")
