"""What is wrong with an oci.conf, and with the files beside it as far as containers go.

A finding has a code that stays, one of three severities, the reason and the cure. `rejected`: Slurm
does not read the file, or ends each task that needs it. `critical`: one user can act as root or as
another user. `warning`: it works differently from what was meant, or only seems to work.
"""

import glob
import os
import re
from collections.abc import Iterator

import attrs

from slurm_oci import accepted
from slurm_oci.conf import BLANK, Conf, Entry, OciConfInvalid, read
from slurm_oci.modules import content
from slurm_oci.pattern import LETTERS, QUOTES_RIGHT, Version, letters, quotes_rightly, writes

CODES = {  # code -> (severity, what it means)
    "syntax": ("rejected", "A line is no `Key=value`, or something is left over behind the value."),
    "unknown-key": ("rejected", "Slurm knows no such key in oci.conf."),
    "include": ("rejected", "An `Include` names nothing that Slurm can read."),
    "include-end": ("rejected", "Whether an `Include` works hangs on what lies behind it in memory."),
    "boolean": ("rejected", "A key that is true or false has another value."),
    "env-file-value": ("rejected", "CreateEnvFile has a value that it cannot have."),
    "debug-flag": ("rejected", "DebugFlags names a flag that this release does not know."),
    "expression": ("rejected", "EnvExclude or RunTimeEnvExclude is no regular expression."),
    "incomplete": ("rejected", "The RunTime lines are not those of one of the two ways."),
    "no-run": ("rejected", "IgnoreFileConfigJson without RunTimeRun: every task ends at its start."),
    "letter": ("rejected", "A `%` letter that this release does not know: every task ends at its start."),
    "user-text-as-root": ("critical", "What a user wrote reaches a shell that runs as root."),
    "user-state-as-root": ("critical", "A program reads as root what a user can write."),
    "sudo": ("critical", "Users need sudo for the runtime, and with it are root on the node."),
    "unquoted": ("warning", "A path stands without quotes in the shell's line."),
    "no-exec": ("warning", "A shell stays between Slurm and the task, and dies of its signals."),
    "argument-quotes": ("warning", "This release breaks arguments with a single quote in `%@`."),
    "env-file-off": ("warning", "The task gets slurmd's environment and nothing of the job's."),
    "env-file-newline": ("warning", "Variables that contain a line break are lost."),
    "no-filter": ("warning", "The node's own Slurm configuration reaches the container."),
    "no-effect": ("warning", "Slurm never uses this setting."),
    "stray-quote": ("warning", "A double quote is a part of the value: its partner is missing."),
    "duplicate": ("warning", "A key is set twice, and the last one counts."),
    "no-pid": ("warning", "`%p` is no process's number there."),
    "no-task": ("warning", "At a step's end `%t` is -1, and no container is called so."),
    "create-hangs": ("warning", "The container holds what Slurm waits for, and each task hangs."),
    "no-gpu": ("warning", "nvidia-container-runtime adds GPUs only where one of its words is `create`."),
    "user-in-name": ("warning", "Some users' names hold characters that no container's name may."),
    "run-user": ("warning", "/run/user/UID is there only for users who are logged in or linger."),
    "spank-plugin": ("warning", "A SPANK plugin starts containers as well."),
    "interactive-step": ("warning", "`salloc --container` is not heeded."),
    "signals-twice": ("warning", "Slurm signals every process, besides the one that forwards signals."),
}


@attrs.frozen
class Finding:
    """One thing that is wrong, where, why and what to do about it."""

    file: str
    line: int
    code: str
    message: str
    cure: str

    @property
    def severity(self) -> str:
        return CODES[self.code][0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.code} {self.severity} {self.message}; {self.cure}"


def lint(path: str, version: Version) -> list[Finding]:
    """Everything found in the oci.conf at `path` and the files beside it, by line.

    Raises OciConfInvalid if the file itself cannot be read.
    """
    try:
        conf = read(path, accepted.KEYS)
    except OSError as error:
        raise OciConfInvalid(
            f"cannot read `{path}`: {error.strerror}",
            "name the file that Slurm reads, as one who may read it: `lint FILE`",
        ) from None
    refused = [*accepted.refusals(conf, path, version), *accepted.deaths(conf, path, version)]
    found = [Finding(fault.file, fault.line, fault.kind, fault.message, fault.cure) for fault in refused]
    for check in (as_root, commands, started, environment, useless, doubtful):
        found += check(conf, path, version)
    found += beside(path)
    return sorted(found, key=lambda finding: (finding.file != path, finding.file, finding.line))


def by(entry: Entry, code: str, message: str, cure: str) -> Finding:
    return Finding(entry.file, entry.line, code, message, cure)


AT_END = ("RunTimeQuery", "RunTimeKill", "RunTimeDelete")  # Slurm runs these as root at a step's end


def lines_of(conf: Conf, *keys: str) -> Iterator[tuple[str, Entry]]:
    """Of each key the entry that counts."""
    for key in keys:
        entry = conf.last(key)
        if entry:
            yield key, entry


# What root would do for a user.

OCI_RUNTIMES = ("runc", "crun", "nvidia-container-runtime", "youki", "runsc", "kata-runtime")
RUNTIMES = (*OCI_RUNTIMES, "singularity", "apptainer", "ch-run", "enroot", "podman", "sarus", "shifter")
ENTRY_POINTS = ("run", "slurm-oci-run-default", "slurm-oci-plugins")
BECOMING = ("setpriv", "runuser", "su", "chroot")  # become another user, with the options they need


def as_root(conf: Conf, path: str, version: Version) -> Iterator[Finding]:
    for key, entry in lines_of(conf, *AT_END):
        known = [LETTERS[letter] for letter in letters(entry.value) if letter in LETTERS]
        written = [letter.letter for letter in known if letter.from_user]
        if written:
            yield by(
                entry,
                "user-text-as-root",
                f"Slurm runs {key} as root at a step's end, with {shown(written)} as the user wrote it",
                "leave it out: name the container by %n.%j.%s.%t, and become the user first",
            )
        words = words_of(entry.value)
        named = next((at for at, word in enumerate(words) if reads_state(word)), None)
        if named is not None and not any(becomes_user(words, at) for at in range(named)):
            yield by(
                entry,
                "user-state-as-root",
                f"Slurm runs {key} as root at a step's end, and `{words[named]}` reads what a user wrote",
                "become the user first, as `slurm-oci-plugins oci-conf --runtime runc` does with setpriv",
            )
    for key, entry in lines_of(conf, *accepted.OPERATIONS):
        words = words_of(entry.value)
        found = [at for at, word in enumerate(words) if is_sudo(word) and not is_for_user(words[at + 1 :])]
        if found:
            yield by(
                entry,
                "sudo",
                f"{key} needs users who may run the runtime with {words[found[0]]}, which makes them root"
                " on the node",
                "use a runtime that needs no root: `slurm-oci-plugins oci-conf --runtime singularity`",
            )


def shown(found: list[str]) -> str:
    return ", ".join(f"%{letter}" for letter in dict.fromkeys(found))


def words_of(text: str) -> list[str]:
    """The words of a shell's line, roughly: quotes and operators separate as blanks do."""
    return [word for word in re.split(r"[\s'\";&|()]+", text) if word]


def reads_state(word: str) -> bool:
    folder, _, name = word.rpartition("/")
    return name in RUNTIMES or (name in ENTRY_POINTS and folder != "")


def becomes_user(words: list[str], at: int) -> bool:
    name = words[at].rpartition("/")[2]
    if name == "setpriv":
        return any(word.startswith("--reuid") for word in words[at:])
    if name == "chroot":
        return any(word.startswith("--userspec") for word in words[at:])
    return name in BECOMING or (is_sudo(name) and is_for_user(words[at + 1 :]))


def is_sudo(word: str) -> bool:
    return word.rpartition("/")[2] in ("sudo", "doas")


def is_for_user(options: list[str]) -> bool:
    """Whether what follows `sudo` or `doas` names the job's user."""
    return any(word.startswith(("-u", "--user")) for word in options[:4])


# What the shell makes of the lines.


def commands(conf: Conf, path: str, version: Version) -> Iterator[Finding]:
    for _, entry in lines_of(conf, "RunTimeCreate", "RunTimeStart", "RunTimeRun"):
        bare, reaching = in_shell(entry.value)
        bare = [letter for letter in bare if letter in "bmrZ"]
        if bare:
            yield by(
                entry,
                "unquoted",
                f"{shown(bare)} without quotes: a blank in the path moves every later word, `;` acts",
                f"put single quotes around it, as in '%{bare[0]}'",
            )
        if "@" in reaching and not quotes_rightly(version):
            yield by(
                entry,
                "argument-quotes",
                f"Slurm {version} {writes(version)} a single quote in `%@` wrongly: the task fails or gets"
                " others",
                f"Slurm {QUOTES_RIGHT} is right; before, only the line of `slurm-oci-plugins oci-conf` is",
            )
    for _, entry in lines_of(conf, "RunTimeCreate"):
        if ">" not in entry.value:
            yield by(
                entry,
                "create-hangs",
                "Slurm waits for the end of what RunTimeCreate prints, which the container keeps open",
                "RunTimeRun; or send the output elsewhere, as `oci-conf --mode create-start` does",
            )
    for key, entry in lines_of(conf, *accepted.OPERATIONS):
        words = words_of(entry.value)
        oci = [word for word in words if word.rpartition("/")[2] in OCI_RUNTIMES or word == "oci"]
        if oci and any("%u" in word and word != "%u" for word in words):
            yield by(
                entry,
                "user-in-name",
                "%u is a part of the container's name, which may hold only letters, digits and `_+.-`",
                "leave it out: %n.%j.%s.%t is unique",
            )
        if "/run/user/" in entry.value:
            yield by(
                entry,
                "run-user",
                "/run/user/UID comes with a login and goes with the last one; a job is no login",
                "`loginctl enable-linger` for every user, or a directory that tmpfiles.d makes",
            )
        if key == "RunTimeRun" and "nvidia-container-runtime" in entry.value and "create" not in words:
            yield by(
                entry,
                "no-gpu",
                "nvidia-container-runtime hands `run` on to runc as it is, without the GPUs",
                "`slurm-oci-plugins oci-conf --runtime nvidia-container-runtime`",
            )


def in_shell(text: str) -> tuple[list[str], list[str]]:
    """The letters of a line that stand outside quotes, and all that stand before a comment."""
    bare: list[str] = []
    reaching: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        char = text[at]
        if char == "%":
            reaching.append(text[at + 1 : at + 2])
            bare += [] if quote else reaching[-1:]
            at += 1
        elif char == "\\" and quote != "'":
            at += 1
        elif char == quote:
            quote = ""
        elif char in "'\"" and not quote:
            quote = char
        elif char == "#" and not quote and (at == 0 or text[at - 1] in BLANK + ";&|()"):
            break
        at += 1
    return bare, reaching


def started(conf: Conf, path: str, version: Version) -> Iterator[Finding]:
    """Whether the runtime takes the shell's place."""
    for _, entry in lines_of(conf, "RunTimeRun"):
        if not re.search(r"(^|[;&|(])\s*(\w+=\S*\s+)*exec\s", entry.value):
            yield by(
                entry,
                "no-exec",
                "Slurm signals its own child alone, the shell, which dies of it; the task is then killed",
                "write `exec` before the program",
            )


# The environment.


def environment(conf: Conf, path: str, version: Version) -> Iterator[Finding]:
    entry = conf.last("CreateEnvFile")
    line = entry.line if entry and entry.file == path else 1
    ignored = accepted.ignores_config(conf)
    if ignored and accepted.env_file(conf) == "disabled":
        yield Finding(
            path,
            line,
            "env-file-off",
            "RunTimeRun runs in slurmd's environment: nothing of the job's reaches the task",
            "CreateEnvFile=null, and a program that reads the file",
        )
    if ignored and entry and accepted.env_file(conf) == "newline":
        yield by(
            entry,
            "env-file-newline",
            "Slurm leaves out each variable that contains a line break (exported shell functions do)",
            "CreateEnvFile=null",
        )
    for key in accepted.EXPRESSIONS:
        entry = conf.last(key)
        if entry and accepted.expression_error(entry.value):
            continue
        if not entry or not accepted.expression_finds(entry.value, "SLURM_CONF=/etc/slurm/slurm.conf"):
            yield Finding(
                entry.file if entry else path,
                entry.line if entry else 1,
                "no-filter",
                f"{key} lets SLURM_CONF through, which names a file of the node's",
                f'{key}="^(SLURM_CONF|SLURM_CONF_SERVER)="',
            )


# Settings that do nothing.


def useless(conf: Conf, path: str, version: Version) -> Iterator[Finding]:
    ignored = accepted.ignores_config(conf)
    by_root = "without IgnoreFileConfigJson Slurm would run it as root"
    for key, entry in lines_of(conf, *AT_END):
        if ignored:
            message = f"with IgnoreFileConfigJson Slurm never runs {key}"
            yield by(entry, "no-effect", message, f"remove it: {by_root}")
            continue
        if "p" in letters(entry.value):
            message = "%p is 4294967295 at a step's end, the only time this is run"
            yield by(entry, "no-pid", message, "name the container, or leave the work to Slurm's own signals")
        if "t" in letters(entry.value) and "-1" not in entry.value:
            yield by(
                entry,
                "no-task",
                "at a step's end %t is -1, so that this names a container that never was",
                "take -1 for all tasks of the step, as `slurm-oci-plugins oci-conf --runtime runc` does",
            )
    for key, entry in lines_of(conf, "RunTimeRun"):
        if "p" in letters(entry.value):
            yield by(entry, "no-pid", f"%p is 4294967295 in {key}", "use $$, the shell's own number")
    if conf.last("RunTimeRun") and ignored:
        for key, entry in lines_of(conf, "RunTimeCreate", "RunTimeStart"):
            yield by(entry, "no-effect", f"with RunTimeRun Slurm never runs {key}", "remove it")
    for _, entry in lines_of(conf, "DisableHooks"):
        message = "Slurm stores the names from the second place on and reads from the first: none is found"
        yield by(entry, "no-effect", message, "take the hooks out of the bundle's config.json")


def doubtful(conf: Conf, path: str, version: Version) -> Iterator[Finding]:
    """What Slurm takes and hardly anybody means."""
    broken = {(fault.file, fault.line) for fault in conf.faults if fault.kind == "syntax"}
    for entry in conf.entries:
        if '"' in entry.value and (entry.file, entry.line) not in broken:
            message = f"the double quote belongs to the value, `{entry.value}`"
            yield by(entry, "stray-quote", message, "put the whole value between two of them")
    for key in accepted.KEYS:
        for entry in conf.all(key)[:-1]:
            if key != "SrunArgs":
                yield by(entry, "duplicate", f"{key} is set again further down, which counts", "remove one")


# The files beside it.

SPANK_CONTAINERS = ("pyxis", "shifter", "sarus")


def beside(path: str) -> Iterator[Finding]:
    folder = os.path.dirname(path) or "."
    slurm, slurm_conf = optional(os.path.join(folder, "slurm.conf"))
    cgroup, _ = optional(os.path.join(folder, "cgroup.conf"))
    parameters = slurm.value("LaunchParameters").lower().split(",")
    if slurm_conf and "use_interactive_step" not in parameters:
        entry = slurm.last("LaunchParameters")
        yield Finding(
            entry.file if entry else slurm_conf,
            entry.line if entry else 1,
            "interactive-step",
            "without use_interactive_step the shell of `salloc --container` runs on the submit host",
            "LaunchParameters=use_interactive_step",
        )
    entry = cgroup.last("SignalChildrenProcesses")
    if entry and entry.value.lower() in accepted.TRUE:
        yield by(
            entry,
            "signals-twice",
            "each process of the container gets Slurm's signals, and again those that a runtime forwards",
            "SignalChildrenProcesses=no, the default, and `exec` in RunTimeRun",
        )
    named = slurm.value("PlugStackConfig") or os.path.join(folder, "plugstack.conf")
    for file, line, plugin in spank_plugins(named):
        name = os.path.basename(plugin)
        if any(known in name for known in SPANK_CONTAINERS):
            yield Finding(
                file,
                line,
                "spank-plugin",
                f"`{name}` starts containers itself; SchedMD: a site with one should have no oci.conf",
                "remove this line, or oci.conf",
            )


def optional(path: str) -> tuple[Conf, str]:
    """The file, and its path if it is there."""
    try:
        return read(path), path
    except OSError:
        return Conf((), ()), ""


def spank_plugins(path: str, depth: int = 0) -> Iterator[tuple[str, int, str]]:
    """File, line and plugin of each line of plugstack.conf and of what it includes (spank(8))."""
    try:
        texts = os.fsdecode(content(path)).split("\n")
    except OSError:
        return
    for number, text in enumerate(texts, 1):
        words = text.partition("#")[0].split()
        if len(words) < 2:
            continue
        if words[0].lower() == "include" and depth < 10:
            for inner in sorted(glob.glob(os.path.join(os.path.dirname(path), words[1]))):
                yield from spank_plugins(inner, depth + 1)
        elif words[0].lower() in ("required", "optional"):
            yield path, number, words[1]
