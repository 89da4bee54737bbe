"""What a Slurm release does with an oci.conf when a task starts: the shell's line and its words."""

import json
import os
import shlex

import attrs

from slurm_oci import accepted, line, pattern, trial
from slurm_oci.conf import Conf, OciConfInvalid, read
from slurm_oci.lint import in_shell
from slurm_oci.ociconf import HANDOVER
from slurm_oci.pattern import LETTERS, QUOTES_RIGHT, Fields, NeverEnds, ShellActs, Version
from slurm_oci.problems import LineUndecodable
from slurm_oci.values import Request


@attrs.frozen
class Launch:
    """How a task would be started."""

    slurm_version: str
    file: str
    line: int
    key: str  # RunTimeRun, or RunTimeCreate where Slurm creates and starts
    shell: str  # what Slurm gives to `/bin/sh -c`
    words: list[str] | None  # what the shell makes of it; None where it does more than take words
    acts: str  # then: what it does first
    starts: bool  # False: it starts nothing, for a quote without its partner
    image: str | None  # as our entry point takes it from SLURM_CONTAINER, where it does
    command: list[str] | None  # as our entry point decodes it, where it does
    faults: list[str]  # what of the user's text does not arrive as it was written, and why


def launch(path: str, version: Version, image: str, command: tuple[str, ...]) -> Launch:
    """The start of `command` in `image` with the oci.conf at `path`. Raises OciConfInvalid.

    Everything else is as it would be here and now, with the default spool directory.
    """
    conf = read_valid(path, version)
    entry = conf.last("RunTimeRun") or conf.last("RunTimeCreate")
    assert entry is not None  # or Slurm refuses the file
    request, job = trial.request_for(image, command)
    fields = fields_of(conf, version, request, job.cwd)
    shell = pattern.shell_line(entry.value, fields, version)
    words, acts, starts = None, "", True
    try:
        words = list(pattern.shell_words(shell.removeprefix(HANDOVER)))
    except ShellActs as error:
        acts, starts = str(error), not isinstance(error, NeverEnds)
    decoded, faults = None, faults_of(entry.value, fields, version)
    hands_over = is_handed_over(entry.value)
    if hands_over:
        try:
            decoded = list(line.decode(shell))
        except LineUndecodable as error:
            faults.append(error.message)
        if accepted.env_file(conf) == "disabled":
            faults.append("%b: `-` stands for it, and without CreateEnvFile nothing says what it is")
    elif "@" in pattern.letters(entry.value) and "@" not in in_shell(entry.value)[1]:
        faults.append(
            "%@: it stands behind a comment sign, and the entry point takes it from there only with"
            " SLURM_OCI_LINE and `-` in the place of %b"
        )
    key = "RunTimeRun" if conf.last("RunTimeRun") else "RunTimeCreate"
    named = image if hands_over else None
    place = (str(version), entry.file, entry.line, key)
    return Launch(*place, shell, words, acts, starts, named, decoded, faults)


def is_handed_over(text: str) -> bool:
    """Whether the entry point takes the image and the command from where no shell has read them."""
    return "SLURM_OCI_LINE=" in text and bool({"-", "'-'"} & set(text.split()))


def read_valid(path: str, version: Version) -> Conf:
    try:
        conf = read(path, accepted.KEYS)
    except OSError as error:
        raise OciConfInvalid(
            f"cannot read `{path}`: {error.strerror}",
            "name an oci.conf that you may read, as /etc/slurm/oci.conf",
        ) from None
    for fault in (*accepted.refusals(conf, path, version), *accepted.deaths(conf, path, version)):
        message = f"Slurm {version} does not take {fault.file}:{fault.line}: {fault.message}"
        raise OciConfInvalid(message, fault.cure, f"see `slurm-oci-plugins lint {shlex.quote(path)}`")
    return conf


def fields_of(conf: Conf, version: Version, request: Request, cwd: str) -> Fields:
    """What the letters stand for in the line that starts the task."""
    fields = Fields.in_slurm(version, request, cwd=cwd)
    parent = conf.value("ContainerPath")
    if parent:
        parent = pattern.shell_line(parent, fields, version)
        fields = Fields.in_slurm(version, request, cwd=cwd, spool=parent)
    if accepted.ignores_config(conf):
        return fields
    # Slurm has then written a config.json of its own into the task's directory.
    folder = os.path.dirname(fields.env_file).rstrip("/")
    return fields.replace(bundle=folder, rootfs=rootfs_of(request.bundle))


def rootfs_of(bundle: str) -> str:
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            named = json.load(file)["root"]["path"]
    except (OSError, ValueError, KeyError, TypeError):
        named = "rootfs"
    return os.path.join(bundle, str(named))


def faults_of(text: str, fields: Fields, version: Version) -> list[str]:
    """Which of the values that a user chose the shell would take for something else."""
    bare, reaching = in_shell(text)
    faults = []
    for letter in dict.fromkeys(reaching):
        if letter not in LETTERS or not (LETTERS[letter].from_user or letter == "m"):
            continue
        if letter == "@":
            broken = [word for word in fields.command if "'" in word]
            if broken and not pattern.quotes_rightly(version):
                faults.append(
                    f"%@: Slurm {version} {pattern.writes(version)} the single quote in `{broken[0]}`"
                    f" wrongly; {QUOTES_RIGHT} is right, and so is the line that `oci-conf` prints in every"
                    " release"
                )
            continue
        value = fields.value(letter)
        if letter in bare and not pattern.is_plain(value):
            faults.append(f"%{letter}: the shell reads `{value}` itself, since %{letter} is not in quotes")
        elif letter not in bare and "'" in value:
            faults.append(f"%{letter}: the single quote in `{value}` ends the quotes around %{letter}")
    return faults
