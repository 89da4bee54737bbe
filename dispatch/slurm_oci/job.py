"""The task's own environment and place, wherever this version of Slurm put them.

`RunTimeRun` is started in slurmd's environment, not the job's. With `CreateEnvFile` in oci.conf
Slurm writes the job's into a file: `%m/task-%t/environment` from 25.05 on, `%m/environment` before.
"""

import os
import pwd

from slurm_oci import problems
from slurm_oci.values import TYPE_CHECKING, Job, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurm_oci.values import Step

STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SLURMDS_PATH = "SLURM_OCI_SLURMDS_PATH"  # what a user's hook keeps for us: its own PATH is the job's
OWN = ("SLURM_OCI_LINE", "SLURM_OCI_HOOK", SLURMDS_PATH)  # ours alone: gone before anything is started
WITHOUT_HOOK = "skip"  # SLURM_OCI_HOOK, as slurm-oci-run-default sets it outside a hook


def mark(request: Request) -> str:
    """What SLURM_OCI_HOOK holds while the user's hook of this very task runs."""
    return f"{request.job}.{request.step}.{request.task}"


def slurmds_path(request: Request, environ: "Mapping[str, str]") -> str:
    """PATH as slurmd has it, also where the user's hook hands back."""
    is_handed_back = environ.get("SLURM_OCI_HOOK") == mark(request)
    return environ.get(SLURMDS_PATH if is_handed_back else "PATH", "")


def read(request: Request, environ: "Mapping[str, str]", trace: "list[Step]") -> Job:
    """The job context of `request`, for a process started in `environ`.

    Raises EnvironmentUnreadable, where the file is there and cannot be read.
    """
    notes: list[str] = []
    user, home, shell = passwd_entry(request, notes)
    env, source, why = environment(request, environ)
    if env is None:
        env = least(request, user, home, shell)
    trace.append(("environment", source, why))
    env = {name: value for name, value in env.items() if name not in OWN}
    return Job(env, source, directory(trace), user, home, shell, tuple(notes))


def least(request: Request, user: str, home: str, shell: str) -> dict[str, str]:
    """The variables of a task of whose job nothing else is known."""
    return {
        "HOME": home,
        "USER": user,
        "LOGNAME": user,
        "SHELL": shell,
        "PATH": STANDARD_PATH,
        "SLURM_JOB_ID": str(request.job),
        "SLURM_STEP_ID": str(request.step),
        "SLURM_LOCALID": str(request.task),
    }


def directory(trace: "list[Step]") -> str:
    """Where this process was started; `/` if somebody has removed that directory since."""
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        trace.append(("directory", "/", f"the job's is gone: {error.strerror}"))
        return "/"


def environment(request: Request, environ: "Mapping[str, str]") -> "tuple[dict[str, str] | None, str, str]":
    """The job's variables, where they were found, and why there; None where they are nowhere."""
    found, source, why = outside_hook(request, environ)
    if environ.get("SLURM_OCI_HOOK") != mark(request):
        return found, source, why
    # Shells drop what no shell variable can be called, exported functions of bash among them.
    lost = {
        name: value for name, value in (found or {}).items() if not (name.isascii() and name.isidentifier())
    }
    return {**lost, **at_start()}, "process", "the user's hook handed back: its environment counts"


def outside_hook(request: Request, environ: "Mapping[str, str]") -> "tuple[dict[str, str] | None, str, str]":
    for path in (
        os.path.join(request.spool, f"task-{request.task}", "environment"),
        os.path.join(request.spool, "environment"),
    ):
        try:
            return parse(content(path)), path, "CreateEnvFile is set in oci.conf"
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise problems.EnvironmentUnreadable(
                f"cannot read the job's environment in `{path}`: {error.strerror}",
                "slurmd makes this file for the job's user: look at the modes of its spool directory",
            ) from None
    if os.path.exists(os.path.join(request.spool, request.bundle, "config.json")):
        from slurm_oci import bundle  # only with IgnoreFileConfigJson=false

        if bundle.is_slurms(request.bundle, request.spool):
            path = os.path.join(request.bundle, "config.json")
            listed = bundle.read_config(path)["process"].get("env", [])
            return dict(entry.partition("=")[::2] for entry in listed), path, "Slurm has made the bundle"
    if environ.get("SLURM_JOB_ID") == str(request.job):
        return at_start(), "process", "this Slurm starts the entry point in the job's environment"
    return (
        None,
        "arguments",
        (
            "no environment file: the job's variables are lost."
            " Set CreateEnvFile=null in oci.conf, as `slurm-oci-plugins oci-conf` does"
        ),
    )


def at_start() -> dict[str, str]:
    """The variables that this process was started with. Python adds LC_CTYPE to `os.environ` where
    the locale is C (PEP 538)."""
    return parse(content("/proc/self/environ"))


def content(path: str) -> bytes:
    """What the file holds, with one file-system call where `open` makes three. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 1 << 15), b""))
    finally:
        os.close(descriptor)


def parse(content: bytes) -> dict[str, str]:
    """The variables in a NUL- or newline-separated environment file (oci.conf(5), CreateEnvFile).

    In the newline form Slurm leaves out variables that contain a newline.
    """
    separator = "\0" if b"\0" in content else "\n"
    pairs = (entry.partition("=") for entry in os.fsdecode(content).split(separator))
    return {name: value for name, equals, value in pairs if equals and name}


def passwd_entry(request: Request, notes: list[str]) -> tuple[str, str, str]:
    """Name, home and shell of the effective user. Never from $HOME: slurmd's may be root's."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:  # as where a directory service does not answer
        notes.append(
            f"going on without a home and ~/.slurm-oci-run: `getent passwd {os.geteuid()}` says nothing"
            " on this node"
        )
        return request.user, "/", "/bin/sh"
    return entry.pw_name, entry.pw_dir, entry.pw_shell or "/bin/sh"
