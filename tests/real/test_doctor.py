"""`doctor` on a healthy node and on one that was broken in every way that can be undone."""

import json
import os
from pathlib import Path

import click
import pytest
from images import IMAGES

from slurm_oci.across import reported
from slurm_oci.commands.doctor import as_text

DOCTOR = "/opt/slurm-oci/bin/slurm-oci-plugins", "doctor"
SHOWN = Path(__file__).resolve().parent.parent.parent / "docs" / "doctor.json"
UPDATE = os.environ.get("SLURM_OCI_UPDATE") == "1"
IN_DOCS = "trixie"

OCI_CONF = """\
IgnoreFileConfigJson=true
RunTimeRun="/opt/slurm-oci/run %b %m %u %U %n %j %s %t %@"
RunTimeKill="kill -s SIGTERM %p"
"""


def doctor(slurm, name, *words, user="alice"):
    """The exit status and, by their names, the findings. docs/doctor.md shows them as `name`."""
    status, out, error = slurm(*DOCTOR, "--json", *words, user=user)
    assert error == b""
    told = json.loads(out)
    in_docs(slurm, name, click.unstyle("\n".join(as_text(reported(told)))))
    return status, {finding["check"]: finding for finding in told["findings"]}


def states(found, *wanted):
    return {check: finding["state"] for check, finding in found.items() if finding["state"] in wanted}


def in_docs(slurm, name, text):
    """The page shows what was printed here; the names and states in it are still the same."""
    shown = json.loads(SHOWN.read_text()) if SHOWN.exists() else {}
    if UPDATE and slurm.root.suite == IN_DOCS:
        shown[name] = text
        SHOWN.write_text(json.dumps(shown, indent=1) + "\n")
    if slurm.root.suite == IN_DOCS:
        assert heads(text) == heads(shown.get(name, "")), "SLURM_OCI_UPDATE=1 writes docs/doctor.json anew"


def heads(text):
    """State and name of each finding."""
    lines = [line for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    return [line.partition(": ")[0].split() for line in lines]


def test_a_healthy_node(slurm):
    """As root who becomes alice; every runtime that is there has run a program."""
    status, found = doctor(slurm, "healthy", "--user", "alice", user="root")
    assert (status, states(found, "failed", "warning")) == (0, {})
    there = ["crun", "runc", "charliecloud", "podman", "unshare"]
    there += ["apptainer"] * slurm.root.has("apptainer")
    assert [name for name in there if not found[name]["message"].startswith("runs a program")] == []
    assert {"crun-steps", "runc-steps", "overlay", "fuse", "squashfuse", "subuid", "subgid"} <= set(found)


@pytest.fixture
def broken(slurm):
    """Another oci.conf, no subordinate ids, an old catalog, a runtime that fails, no state base."""
    files = {path: slurm.root.path(path).read_bytes() for path in ("/etc/subuid", "/etc/subgid")}
    slurm.root.set_oci_conf(OCI_CONF)
    for path in files:
        slurm.root.write(path, "bob:100000:65536\n")
    slurm.root.write("/usr/local/bin/crun", "#!/bin/sh\necho 'crun: no good' >&2\nexit 1\n", mode=0o755)
    slurm.root.write("/opt/slurm-oci/site.toml", 'state = "/run/no-such-base"\n')
    slurm.root.write("/opt/slurm-oci/plugins.d/mine.py", "import no_such_library\n")
    yield slurm
    for path, content in files.items():
        slurm.root.write(path, content)
    ours = ("/usr/local/bin/crun", "/opt/slurm-oci/plugins.d/mine.py", "/opt/slurm-oci/site.toml")
    slurm("rm", "-f", *ours, user="root")
    assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "compile", user="root")[0] == 0


def test_a_broken_node(broken):
    """Everything is found, and nothing else; each with what to do."""
    status, found = doctor(broken, "broken")
    assert status == 1
    lint = {"env-file-off", "no-exec", "no-effect", "no-filter", "unquoted"}
    lint |= {"argument-quotes"} if broken.root.suite == "trixie" else set()
    assert states(found, "failed", "warning") == {
        **dict.fromkeys(("subuid", "subgid", "catalog", "plugin", "state"), "warning"),
        **dict.fromkeys(lint, "warning"),
        **dict.fromkeys(("crun", "podman"), "failed"),
    }
    assert "crun: no good" in found["crun"]["message"]
    assert [check for check in states(found, "failed", "warning") if not found[check]["cure"]] == []


@pytest.fixture
def logging(slurm):
    """site.toml names a log that nobody has made yet; its path on the node."""
    path = "/var/log/slurm-oci.log"
    slurm.root.write("/opt/slurm-oci/site.toml", f'log = "{path}"\n')
    assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "compile", user="root")[0] == 0
    yield path
    slurm("rm", "-f", path, "/opt/slurm-oci/site.toml", user="root")
    assert slurm("/opt/slurm-oci/bin/slurm-oci-plugins", "compile", user="root")[0] == 0


def test_the_cure_of_a_log_that_is_not_there_works(slurm, logging):
    """Then a task's line is in it, which was lost before."""

    def found():
        findings = json.loads(slurm(*DOCTOR, "--json", "--user", "alice", user="root")[1])["findings"]
        return next(finding for finding in findings if finding["check"] == "log")

    def task():
        assert slurm.srun(IMAGES["rootfs"], "/bin/true", SLURM_OCI_RUNTIME="unshare")[0] == 0

    task()
    assert found()["state"] == "warning"
    assert not slurm.root.path(logging).exists()
    slurm("sh", "-c", found()["cure"].split("`")[1], user="root")
    assert found()["state"] == "ok"
    task()
    (line,) = slurm.root.path(logging).read_text().splitlines()
    assert json.loads(line)["runtime"] == "unshare"


def test_a_node_without_oci_conf(slurm):
    """Slurm then runs the command on the host; across nodes it is the line of that node."""
    slurm.root.clear_oci_conf()
    _, out, _ = slurm(*DOCTOR, "--across", "srun", "-N1")
    line, where, reason, *rest = out.decode().splitlines()
    assert line.split() == ["node1", "FAILED", "oci-conf"]
    assert (where, reason.split()[:2]) == ("on node1", ["FAILED", "oci-conf:"])
    assert "ln -s /opt/slurm-oci/oci.conf /etc/slurm/oci.conf" in " ".join(rest)
