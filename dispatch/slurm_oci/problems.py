"""Everything that can go wrong for a reason outside this program, by kind.

A problem says what happened and where, what was expected, and what to do. It is raised anywhere
and printed in one place. Each is a line of the failure taxonomy in the docs: its name in lower case
with dashes is the stable code at the end of the error line, `area` tells who is at fault, `status`
is the exit status.
"""

# What to do where a problem has no advice of its own.
EXPLAIN = "`slurm-oci-plugins explain` shows each step of the decision"
SITE = "until the site's admins mend it no task with --container starts; `slurm-oci-plugins site` checks it"


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
        hints = self.hints or (SITE if self.code == "site-invalid" else EXPLAIN,)
        first = f"slurm-oci: error: {visible(self.message)} [{self.code}]"
        return [first, *("  " + visible(hint) for hint in hints)]


# (who is at fault, exit status) -> name -> meaning. Each name is a class of this module, made when it
# is first asked for: all of them at once would cost every task as much as all its other imports.
KINDS = {
    ("dispatcher", 125): {
        "Internal": "A mistake of this program's own. Its traceback is printed: please report it.",
        "RequestMalformed": "The entry point was called with other words than `%b %m %u %U %n %j %s %t`.",
        "RequestShifted": "The shell read the image's path or the command, and other words came.",
        "LineUndecodable": "The text of Slurm's shell line is in neither of the forms that Slurm writes.",
        "NodeFailed": "The node refused an ordinary call: a disk, a server or a table is full or broken.",
        "StateUnavailable": "No private directory can be made for the task on this node.",
        "EnvironmentUnreadable": "Slurm's environment file for the task is there and cannot be read.",
    },
    ("job", 125): {
        "SettingInvalid": "A per-job setting or a key of the environment definition has a wrong value.",
        "ArgumentTooLong": "A word of the command or a variable is longer than the kernel passes on.",
    },
    ("runtime", 125): {
        "SettingRefused": "The chosen runtime cannot carry out what job or site asked for by name.",
        "ArgumentRefused": "The chosen runtime would change a word, a variable or a path on its way.",
        "ImageRefused": "The runtime that was asked for by name does not take this kind of image.",
        "MpiRefused": "Slurm offers PMI2 or PMIx, and something is missing to bring it into the container.",
        "PluginFailed": "A runtime's plugin raised something while it planned.",
    },
    ("image", 125): {
        "ImageMissing": "There is nothing at the image's path.",
        "ImageUnreadable": "The image is there and cannot be read or entered by the user.",
        "ImageUnknown": "The image is there and is of no known kind.",
        "ImageBroken": "The image is of a known kind and its own description is wrong.",
    },
    ("site", 125): {
        "CacheUnsafe": "Somebody else could have put something into the directory of unpacked images.",
        "CacheUnavailable": "Nothing can be written where unpacked images are kept.",
        "PullRefused": "The image lies in a registry, and the site does not allow to fetch it from there.",
        "RuntimeRefused": "The runtime that was asked for by name is not one that the site allows.",
        "SiteInvalid": "`site.toml` cannot be used as it is.",
    },
    ("hook", 125): {
        "HookUnsafe": "`~/.slurm-oci-run` could have been written by somebody else, or is no program.",
    },
    ("hook", 126): {
        "HookFailed": "`~/.slurm-oci-run` could not be started.",
    },
    ("runtime", 127): {
        "RuntimeUnknown": "No runtime has the name that was asked for.",
        "RuntimeMissing": "The runtime is known and its executable is not on this node.",
        "RuntimeNone": "No runtime on this node takes this kind of image.",
    },
    ("runtime", 126): {
        "RuntimeFailed": "The runtime could not be started, or its preparation failed.",
    },
    ("image", 126): {
        "ImportFailed": "The image could not be fetched or unpacked; what the program said last is told.",
    },
    ("image", 127): {
        "CommandMissing": "The image has no such command, or none where `srun` found one on the submit host.",
    },
}


def __getattr__(name: str) -> type[Problem]:
    for (area, status), meanings in KINDS.items():
        if name in meanings:
            content = {"area": area, "status": status, "__doc__": meanings[name], "__module__": __name__}
            found = globals()[name] = type(name, (Problem,), content)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def visible(text: str) -> str:
    """`text` with what a terminal would obey, or could not show, written as an escape, and without the
    password of a URI."""
    if "://" in text and "@" in text:
        from slurm_oci.secret import without_passwords  # few texts have one

        text = without_passwords(text)
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def escaped(sign: str) -> str:
    """`sign` as an escape: `\\xff` is that very byte, one that is no text, and never a character's number."""
    if "\udc80" <= sign <= "\udcff":
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return f"\\u{ord(sign):04x}" if "\x80" <= sign <= "\xff" else ascii(sign)[1:-1]


def nearest(word: str, known: "list[str] | tuple[str, ...]") -> str:
    """Of `known`, what `word` was most likely meant to be; empty where nothing is near."""
    from difflib import get_close_matches  # only where something has gone wrong already

    same = (one for one in known if one.lower() == word.lower())
    return next(same, "") or next(iter(get_close_matches(word, known, 1)), "")
