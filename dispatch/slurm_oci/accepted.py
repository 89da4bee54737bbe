"""What Slurm itself refuses in oci.conf, or dies of when a task starts.

The keys are the same from 23.02 to 26.11; the letters and the names in DebugFlags are not.

Source: Slurm's src/common/oci_config.c (`get_oci_conf`), debug_str2flags() of the release tags,
and slurmstepd's container.c.
"""

import ctypes
import os
from collections.abc import Iterator

from slurm_oci import pattern
from slurm_oci.conf import Conf, Entry, Fault
from slurm_oci.pattern import Version
from slurm_oci.problems import SiteInvalid, nearest

OPERATIONS = ("RunTimeQuery", "RunTimeCreate", "RunTimeStart", "RunTimeKill", "RunTimeDelete", "RunTimeRun")
KEYS = (
    *OPERATIONS,
    *("ContainerPath", "CreateEnvFile", "DebugFlags", "DisableCleanup", "DisableHooks", "EnvExclude"),
    *("FileDebug", "IgnoreFileConfigJson", "MountSpoolDir", "RunTimeEnvExclude", "SrunArgs", "SrunPath"),
    *("StdIODebug", "SyslogDebug"),
)
BOOLEANS = ("DisableCleanup", "IgnoreFileConfigJson")
PATTERNS = ("ContainerPath", "MountSpoolDir", *OPERATIONS)
EXPRESSIONS = ("EnvExclude", "RunTimeEnvExclude")
TRUE, FALSE = ("yes", "up", "true", "1"), ("no", "down", "false", "0")
ENV_FILE = {
    **dict.fromkeys(("null", "true", "y", "yes", "1"), "null"),
    "newline": "newline",
    **dict.fromkeys(("false", "disabled", "n", "no", "0"), "disabled"),
}


def ignores_config(conf: Conf) -> bool:
    """Whether IgnoreFileConfigJson is on."""
    return conf.value("IgnoreFileConfigJson").lower() in TRUE


def env_file(conf: Conf) -> str:
    """`null`, `newline` or `disabled`; empty for a value that Slurm refuses."""
    return ENV_FILE.get(conf.value("CreateEnvFile", "disabled").lower(), "")


def refusals(conf: Conf, path: str, version: Version) -> Iterator[Fault]:
    """Everything for which `version` does not read the file at all."""
    yield from conf.faults
    for key in BOOLEANS:
        for entry in conf.all(key):
            if entry.value.lower() not in TRUE + FALSE:
                yield at(
                    entry,
                    "boolean",
                    f"`{entry.value}` is neither true nor false",
                    "write `true` or `false` (`Y` and `on` are not known)",
                )
    created = conf.last("CreateEnvFile")
    if created and created.value.lower() not in ENV_FILE:
        message = f"CreateEnvFile cannot be `{created.value}`"
        yield at(created, "env-file-value", message, "it is `null`, `newline` or `disabled`")
    yield from debug_flags(conf, version)
    for key in EXPRESSIONS:
        last = conf.last(key)
        error = expression_error(last.value) if last else ""
        if last and error:
            cure = "it is a POSIX extended regular expression, as for `grep -E`"
            yield at(last, "expression", f"{key} is no regular expression: {error}", cure)
    yield from missing_lines(conf, path)


def deaths(conf: Conf, path: str, version: Version) -> Iterator[Fault]:
    """Everything for which `version` reads the file and then ends each task that needs it."""
    if ignores_config(conf) and not conf.last("RunTimeRun"):
        start = conf.last("RunTimeStart") or conf.last("IgnoreFileConfigJson")
        assert start is not None
        yield at(
            start,
            "no-run",
            "with IgnoreFileConfigJson, Slurm knows no way to start a container but RunTimeRun",
            "set RunTimeRun; RunTimeCreate and RunTimeStart are for bundles with a config.json",
        )
    for entry in (found for key in PATTERNS if (found := conf.last(key))):
        try:
            pattern.check(entry.value, version)
        except SiteInvalid as invalid:
            yield at(entry, "letter", invalid.message, "; ".join(invalid.hints))


def at(entry: Entry, kind: str, message: str, cure: str) -> Fault:
    return Fault(kind, message, cure, entry.file, entry.line)


def missing_lines(conf: Conf, path: str) -> Iterator[Fault]:
    """Without IgnoreFileConfigJson the RunTime lines must be complete."""
    if ignores_config(conf):
        return
    present = {key for key in OPERATIONS if conf.last(key)}
    run = {"RunTimeRun", "RunTimeKill", "RunTimeDelete"}
    start = {"RunTimeQuery", "RunTimeCreate", "RunTimeStart", "RunTimeKill", "RunTimeDelete"}
    if present in (run, run | {"RunTimeQuery"}, start):
        return
    line = min((entry.line for key in present for entry in conf.all(key) if entry.file == path), default=1)
    if "RunTimeRun" in present and present & {"RunTimeCreate", "RunTimeStart"}:
        message = "RunTimeRun excludes RunTimeCreate and RunTimeStart"
        cure = "keep either of the two ways to start a container"
    else:
        wanted = start if present & {"RunTimeCreate", "RunTimeStart"} else run
        message = f"{' and '.join(sorted(wanted - present))} missing"
        cure = (
            "one way needs RunTimeRun, RunTimeKill and RunTimeDelete, the other all five but RunTimeRun;"
            " IgnoreFileConfigJson=true needs RunTimeRun alone"
        )
    yield Fault("incomplete", message, cure, path, line)


def debug_flags(conf: Conf, version: Version) -> Iterator[Fault]:
    entry = conf.last("DebugFlags")
    if entry is None:
        return
    known = {flag.lower(): flag for flag in flags_of(version)}
    for word in filter(None, entry.value.split(",")):
        if word.lower() not in known:
            near = nearest(word.lower(), list(known))
            cure = f"did you mean `{known[near]}`?" if near else "slurm.conf(5), DebugFlags, lists them"
            yield at(entry, "debug-flag", f"Slurm {version} has no debug flag `{word}`", cure)


def flags_of(version: Version) -> set[str]:
    """The names that DebugFlags may hold."""
    flags = set(FLAGS.split())
    for since, added, removed in FLAG_CHANGES:
        if version >= since:
            flags = (flags | set(added.split())) - set(removed.split())
    return flags


FLAGS = """
Accrue Agent Backfill BackfillMap BurstBuffer CPU_Bind CpuFrequency DB_Archive DB_Assoc DB_Event DB_Job
DB_QOS DB_Query DB_Reservation DB_Resource DB_Step DB_TRES DB_Usage DB_WCKey Data Dependency
Elasticsearch Energy ExtSensors Federation FrontEnd Gang Gres Hetjob Interconnect JAG JobAccountGather
JobComp JobContainer License MPI NO_CONF_HASH Net NetRaw Network NetworkRaw NodeFeatures Power PowerSave
Priority Profile Protocol Reservation Route Script SelectType Steps Switch Task TimeCray TraceJobs
Trigger Triggers WorkQ WorkQueue Cgroup
"""  # of 23.02
FLAG_CHANGES = (  # since when, what came, what went
    (Version((23, 11, 0)), "Sack", ""),
    (Version((23, 11, 4)), "GLOB_SILENCE", ""),
    (Version((24, 5, 0)), "AuditRPCs DBD_Agent TLS", "ExtSensors TimeCray"),
    (Version((24, 11, 0)), "ConMgr", ""),
    (Version((25, 5, 0)), "AuditTLS", "FrontEnd"),
    (Version((25, 11, 0)), "Metrics Namespace", ""),
    (Version((26, 5, 0)), "Thread Threads", ""),
)

REG_EXTENDED = 1  # regex.h, the same in glibc and musl
ROOM = 1024  # for a regex_t, whose size depends on the C library: 64 bytes in glibc


def expression_error(expression: str) -> str:
    """What the C library, which Slurm uses, finds wrong with it; empty if nothing."""
    library = ctypes.CDLL(None)
    compiled = ctypes.create_string_buffer(ROOM)
    status = library.regcomp(compiled, os.fsencode(expression), REG_EXTENDED)
    if not status:
        library.regfree(compiled)
        return ""
    message = ctypes.create_string_buffer(200)
    library.regerror(status, compiled, message, len(message))
    return os.fsdecode(message.value)


def expression_finds(expression: str, text: str) -> bool:
    """Whether the expression, one without an error, finds something in `text`."""
    library = ctypes.CDLL(None)
    compiled = ctypes.create_string_buffer(ROOM)
    if library.regcomp(compiled, os.fsencode(expression), REG_EXTENDED):
        return False
    try:
        return not library.regexec(compiled, os.fsencode(text), 0, None, 0)
    finally:
        library.regfree(compiled)
