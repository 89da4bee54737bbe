"""Everything that can go wrong for a reason outside this program, by kind.

A problem says what happened and where, what was expected, and what to do. It is raised anywhere
and printed in one place. Each class is a line of the failure taxonomy in the docs: its name in
lower case with dashes is the stable code at the end of the error line, `area` tells who is at
fault, `status` is the exit status.
"""


class Problem(Exception):
    """Something outside the program is not as it must be."""

    area = "dispatcher"  # dispatcher, job, image, runtime, hook, site
    status = 125

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints

    @property
    def code(self) -> str:
        name = type(self).__name__
        return "".join("-" * (i > 0 and c.isupper()) + c.lower() for i, c in enumerate(name))

    def lines(self) -> list[str]:
        """The error as it is printed: what and where, then what to do."""
        hints = self.hints or ("`slurm-oci-plugins explain` shows each step of the decision",)
        first = f"slurm-oci: error: {visible(self.message)} [{self.code}]"
        return [first, *("  " + visible(hint) for hint in hints)]


class Internal(Problem):
    """A mistake of this program's own. Its traceback is printed: please report it."""


class RequestMalformed(Problem):
    """The entry point was called with other words than `%b %m %u %U %n %j %s %t`."""


class RequestShifted(Problem):
    """White space or a quote in the image's path moved every later word by one."""


class LineUndecodable(Problem):
    """The text of Slurm's shell line is in neither of the forms that Slurm writes."""


class SettingInvalid(Problem):
    """A per-job setting or a key of the environment definition has a value it cannot have."""

    area = "job"


class SettingRefused(Problem):
    """The chosen runtime cannot carry out what job or site asked for by name."""

    area = "runtime"


class ArgumentRefused(Problem):
    """The chosen runtime would change a word of the command, a variable or a path on its way."""

    area = "runtime"


class ArgumentTooLong(Problem):
    """A word of the command or a variable is longer than the kernel passes to any program."""

    area = "job"


class ImageMissing(Problem):
    """There is nothing at the image's path."""

    area = "image"


class ImageUnreadable(Problem):
    """The image is there and cannot be read or entered by the user."""

    area = "image"


class ImageUnknown(Problem):
    """The image is there and is of no known kind."""

    area = "image"


class ImageBroken(Problem):
    """The image is of a known kind and its own description is wrong."""

    area = "image"


class PullRefused(Problem):
    """The image lies in a registry, and the site does not allow to fetch it from there."""

    area = "site"


class ImportFailed(Problem):
    """The image could not be fetched or unpacked; what the program said last is told."""

    area = "image"
    status = 126


class HookUnsafe(Problem):
    """`~/.slurm-oci-run` could have been written by somebody else, or is no program."""

    area = "hook"


class HookFailed(Problem):
    """`~/.slurm-oci-run` could not be started."""

    area = "hook"
    status = 126


class RuntimeUnknown(Problem):
    """No runtime has the name that was asked for."""

    area = "runtime"
    status = 127


class RuntimeMissing(Problem):
    """The runtime is known and its executable is not on this node."""

    area = "runtime"
    status = 127


class ImageRefused(Problem):
    """The runtime that was asked for by name does not take this kind of image."""

    area = "runtime"


class RuntimeNone(Problem):
    """No runtime on this node takes this kind of image."""

    area = "runtime"
    status = 127


class RuntimeFailed(Problem):
    """The runtime could not be started, or its preparation failed."""

    area = "runtime"
    status = 126


class PluginFailed(Problem):
    """A runtime's plugin raised something while it planned."""

    area = "runtime"


class CommandMissing(Problem):
    """The image has no such command where `srun` found one on the submit host."""

    area = "image"
    status = 127


class SiteInvalid(Problem):
    """`site.toml` cannot be used as it is."""

    area = "site"


class StateUnavailable(Problem):
    """No private directory can be made for the task on this node."""


class EnvironmentUnreadable(Problem):
    """Slurm's environment file for the task is there and cannot be read."""


def visible(text: str) -> str:
    """`text` with what a terminal would obey, or could not show, written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """Of `known`, what `word` was most likely meant to be; empty where nothing is near."""
    from difflib import get_close_matches  # only where something has gone wrong already

    return next(iter(get_close_matches(word, known, 1)), "")
