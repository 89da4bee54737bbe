"""Starting points for `~/.slurm-oci-run`: where they are, and how one becomes the person's own."""

import os
import pwd
import shlex
import shutil
import tempfile

import attrs

from slurm_oci import hook
from slurm_oci.problems import Problem, nearest

WRITTEN_FOR = "/opt/slurm-oci"  # the installation that the templates name
NO_LOGIN_SHELL = "\nlogin_shell=\n"  # the line for the shell whose login files count; empty for bash
# Shells with login files of their own that can be asked for their variables; bash reads sh's.
LOGIN_SHELLS = ("zsh", "fish", "tcsh", "csh", "ksh", "mksh")


class TemplateUnknown(Problem):
    """No template for `~/.slurm-oci-run` has the name that was asked for."""

    area = "hook"


class TemplateNotWritten(Problem):
    """A template cannot become `~/.slurm-oci-run`."""

    area = "hook"


@attrs.frozen
class Template:
    """A script that works as it is."""

    name: str
    summary: str  # one line
    language: str  # bash, python
    path: str

    @classmethod
    def at(cls, path: str) -> "Template":
        with open(path, encoding="utf-8") as file:
            first, summary = file.readline(), file.readline()
        language = "python" if "python" in first else "bash"
        return cls(os.path.basename(path).partition(".")[0], summary.lstrip("# ").rstrip(), language, path)

    def text(self, prefix: str, shell: str) -> str:
        """The script for the installation at `prefix` and for a person whose shell is `shell`."""
        with open(self.path, encoding="utf-8") as file:
            text = file.read().replace(WRITTEN_FOR + "/", prefix + "/")
        if os.path.basename(shell) in LOGIN_SHELLS:
            text = text.replace(NO_LOGIN_SHELL, f"\nlogin_shell={shlex.quote(shell)}\n", 1)
        return text


def templates(folder: str) -> list[Template]:
    """The templates in `folder`, by name."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [Template.at(os.path.join(folder, name)) for name in names if name.endswith((".bash", ".py"))]


def named(name: str, folder: str) -> Template:
    """Raises TemplateUnknown."""
    by_name = {template.name: template for template in templates(folder)}
    if name not in by_name:
        near = nearest(name, list(by_name))
        hints = [f"did you mean `{near}`?"] if near else []
        hints.append("`slurm-oci-plugins template` lists them")
        raise TemplateUnknown(f"no template is called `{name}`", *hints)
    return by_name[name]


def shell_of_the_person() -> str:
    """The path of the shell that this command was called from, else that of the passwd entry."""
    import shellingham  # type: ignore[import-untyped]

    entry = passwd_entry()
    try:
        name, path = shellingham.detect_shell()
    except (shellingham.ShellDetectionFailure, OSError):
        return entry.pw_shell
    if os.path.basename(entry.pw_shell) == name:
        return entry.pw_shell  # by the path that holds on every node
    return (path if os.path.isabs(path) else shutil.which(name)) or entry.pw_shell


def passwd_entry() -> pwd.struct_passwd:
    """Raises TemplateNotWritten where there is none."""
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        raise TemplateNotWritten(
            f"user {os.geteuid()} has no passwd entry on this node, and so no home",
            "try it on a node where you can log in",
        ) from None


def write(text: str, home: str, force: bool) -> tuple[str, str]:
    """Writes `text` as the hook in `home`; its path, and that of the backup of what was there.

    Raises TemplateNotWritten, where there is one already or it cannot be written.
    """
    path = os.path.join(home, hook.NAME)
    backup = ""
    try:
        if os.path.lexists(path):
            if not force:
                raise FileExistsError
            backup = free_name(path)
        descriptor, new = tempfile.mkstemp(prefix=hook.NAME + ".", dir=home)
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o700)
            if backup:
                os.rename(path, backup)
            try:
                os.link(new, path)  # which replaces nothing that somebody has made meanwhile
            except OSError:
                if backup and not os.path.lexists(path):
                    os.rename(backup, path)
                raise
        finally:
            os.unlink(new)
    except FileExistsError:
        raise TemplateNotWritten(
            f"`{path}` is there already", "`--force` replaces it and keeps a backup beside it"
        ) from None
    except OSError as error:
        raise TemplateNotWritten(
            f"cannot write `{path}`: {error.strerror}",
            "is your home full, or its quota? `quota` and `df -h ~` tell",
        ) from None
    return path, backup


def free_name(path: str) -> str:
    number = 1
    while os.path.lexists(f"{path}.{number}"):
        number += 1
    return f"{path}.{number}"
