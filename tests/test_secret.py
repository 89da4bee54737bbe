"""What looks like a secret is not shown: `slurm_oci.secret`."""

import json
import subprocess

import pytest
from conftest import STANDARD_PATH

from slurm_oci.problems import ImageMissing
from slurm_oci.secret import is_secret, without_passwords

HIDDEN = """DB_PASS SSHPASS MYSQL_PWD GITHUB_PAT OPENAI_KEY SESSION_COOKIE MY_TOKEN AWS_SECRET_ACCESS_KEY
    PGPASSWORD db_passwd SSH_PASSPHRASE APIKEY SSH_KEYS"""
SHOWN = "PWD OLDPWD BYPASS COMPASS PASSENGERS PATH MY_PATH KEYBOARD SLURM_JOB_ID HOME AWS_ACCESS_KEY_ID"


def test_names_of_secrets():
    """And names like them."""
    assert [name for name in HIDDEN.split() if not is_secret(name)] == []
    assert [name for name in SHOWN.split() if is_secret(name)] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("docker://user:hunter2@reg/img", "docker://user:***@reg/img"),
        ("a postgres://u:p@ss:w@h/db, b", "a postgres://u:***@h/db, b"),
        ("http://:x@h and https://v:y@h", "http://:***@h and https://v:***@h"),
        ("docker://alpine:3.20@sha256:aa", "docker://alpine:3.20@sha256:aa"),
        ("docker://host:5000/a@sha256:aa", "docker://host:5000/a@sha256:aa"),
        ("docker://user@host/a:1", "docker://user@host/a:1"),
        ("/a:b@c", "/a:b@c"),
    ],
)
def test_a_password_in_a_uri(text, shown):
    """User and host stay; a tag and a digest are none."""
    assert without_passwords(text) == shown
    assert shown in ImageMissing(f"x {text} y", "hint").lines()[0]
    assert ImageMissing("x", text).lines()[1] == f"  {shown}"


@pytest.mark.parametrize("pull", ["true", "false"])
def test_a_password_is_in_no_error_trace_or_log(slurm, pull):
    """Whether or not the site allows to fetch the image."""
    log = slurm.place / "log"
    log.touch()
    log.chmod(0o622)
    site = slurm.prefix / "site.toml"
    site.write_text(site.read_text() + f'log = "{log}"\npull = {pull}\n')
    slurm.job["SLURM_OCI_DEBUG"] = "1"
    image = "docker://user:hunter2@localhost:1/image"
    ended = slurm.run(image, "true")
    assert ended.status in (125, 126, 127)
    assert "://user:***@localhost" in ended.err
    assert json.loads(log.read_text())["image"] == "docker://user:***@localhost:1/image"
    explain = [slurm.prefix / "bin/slurm-oci-plugins", "--prefix", slurm.prefix, "explain", "--json", image]
    shown = subprocess.run(explain, env={"PATH": STANDARD_PATH}, capture_output=True, text=True).stdout
    assert shown
    assert "hunter2" not in ended.err + log.read_text() + shown


def test_a_trace_is_plain_lines(slurm, rootfs):
    """Whatever the names in it."""
    slurm.job["SLURM_OCI_DEBUG"] = "1"
    err = slurm.run(rootfs("a\x1b[31m\nb"), "true").err
    assert "\x1b" not in err
    assert "`" + str(slurm.place) + "/a\\x1b[31m\\nb`" in err
