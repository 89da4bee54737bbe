"""What this node needs for containers, tried rather than read where it can be."""

import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator

import attrs

import slurm_oci
from slurm_oci import accepted, gc, installed_slurm, log, plugins
from slurm_oci.checks import (
    FAILED,
    WARNING,
    Finding,
    installation,
    kernel,
    namespace,
    runtimes,
    slurm,
    tiny,
    tried,
    user,
)
from slurm_oci.installation import closed
from slurm_oci.problems import Problem

OURS = (os.__file__, slurm_oci.__file__)  # what of this process's own code the user must reach
MINUTES = 20  # for all that is tried as another user: each trial has its own, shorter limit


class DoctorRefused(Problem):
    """Nothing can be tried as the user that was named."""

    area = "site"


@attrs.frozen
class Report:
    """Everything found on one node."""

    node: str
    user: str  # as whom the trials were made
    findings: tuple[Finding, ...]

    @property
    def state(self) -> str:
        """The worst of the findings'."""
        states = {finding.state for finding in self.findings}
        return next((state for state in (FAILED, WARNING) if state in states), "ok")

    @property
    def worst(self) -> list[Finding]:
        """The findings that make the state what it is; none where all is well."""
        return [finding for finding in self.findings if finding.state == self.state != "ok"]


def examine(prefix: str, name: str = "") -> Report:
    """The node, as the user `name` or, without, as whoever asks. Raises DoctorRefused."""
    findings = (*as_user(prefix, name), *slurm.checks(prefix), *installation.checks(prefix))
    order = [group.GROUP.name for group in (kernel, user, slurm, installation, runtimes)]
    findings = tuple(sorted(findings, key=lambda finding: order.index(finding.group)))
    return Report(installed_slurm.this_node(), name or pwd_name(os.geteuid()), findings)


def pwd_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def as_user(prefix: str, name: str) -> list[Finding]:
    """What is to be tried as the user. Raises DoctorRefused."""
    if not name or name == pwd_name(os.geteuid()):
        return list(trials(prefix))
    if os.geteuid():
        raise DoctorRefused(
            f"only root can try as `{name}`", "leave out --user: it is tried as yourself then"
        )
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise DoctorRefused(
            f"this node knows no user `{name}`", "`getent passwd` lists those it knows"
        ) from None

    def told() -> int:
        gc.become(uid)
        namespace.be_dumpable()
        os.umask(0o022)
        answer = json.dumps([attrs.asdict(finding) for finding in trials(prefix)])
        os.write(1, b"\n" + answer.encode())
        return 0

    status, said = tried(told, MINUTES * 60)
    if status:
        raise DoctorRefused(
            f"trying as `{name}` ended with {status}: {said.strip() or 'no word'}",
            f"`runuser -u {name} -- slurm-oci-plugins doctor` shows more; or name another user",
        )
    return [Finding(**found) for found in json.loads(said.splitlines()[-1])]


def trials(prefix: str) -> Iterator[Finding]:
    """As the effective user, who gets a directory of his own for it and loses it afterwards."""
    yield installation.entry_point(prefix)
    behind = next((path for path in OURS if not os.access(path, os.R_OK)), "")
    if behind:  # whatever is imported from here on is not found
        yield user.GROUP.failed(
            "who",
            f"nothing more can be tried as {pwd_name(os.geteuid())}, who cannot enter"
            f" `{closed(behind) or os.path.dirname(behind)}`, where this command's own code is",
            f"`{prefix}/bin/slurm-oci-plugins doctor`, of an installation that users can reach",
        )
        return
    place = tempfile.mkdtemp(prefix="slurm-oci-doctor.")
    try:
        images = tiny.make(place, os.uname().machine)
        work = os.path.join(place, "work")
        os.mkdir(work)
        conf = slurm.conf_of(slurm.oci_conf(), accepted.KEYS)
        yield from kernel.checks(work, images.get("rootfs", ""))
        yield from user.checks(conf)
        try:
            gathered = plugins.gather(prefix)
        except Problem:
            return  # which is a finding about the installation
        if gathered.site.log == log.SYSLOG:
            yield installation.syslog()
        elif gathered.site.log:
            yield installation.log_file(gathered.site.log)
        yield from runtimes.checks(gathered, images)
    finally:
        shutil.rmtree(place, ignore_errors=True)
