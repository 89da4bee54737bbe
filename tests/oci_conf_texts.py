"""Random oci.conf files: mostly near what Slurm accepts, with every fault that its reader knows."""

from hypothesis import strategies as st

from slurm_oci.accepted import KEYS

BLANKS = st.sampled_from(["", "", "", " ", "\t", "  ", "\r", "\f"])
COMMANDS = st.sampled_from(
    [
        "runc run -b %b %j.%s.%t",
        "/opt/slurm-oci/run '%b' %m %@",
        r"run \# %@",
        "run # %@",
        r"a\\b",
        r"say \"x\"",
        r"say\"x\"",
        "a 'b c'",
        "%q",
        "%",
        "%%",
        "",
        " ",
        "é\udcff",
        "a=b",
        "#",
    ]
)
BOOLEANS = st.sampled_from(["true", "TRUE", "yes", "up", "1", "false", "no", "down", "0", "Y", "on", "2", ""])
ENV_FILES = st.sampled_from(
    ["null", "NULL", "newline", "disabled", "true", "Y", "no", "0", "1", "up", "x", ""]
)
EXPRESSIONS = st.sampled_from(
    ["^(SLURM_CONF|SLURM_CONF_SERVER)=", "^A", "(", ")", "[", "[[:bad:]]", "a{2,1}", "*", "a**", "\\\\(", ""]
)
FLAGS = st.sampled_from(["Steps", "steps,Script", "Steps,", ",", "Nothing", "TimeCray", "Namespace", ""])
ANYTHING = st.text("ab%@\\\"#' =\t", max_size=6)
VALUES = {
    **dict.fromkeys(("DisableCleanup", "IgnoreFileConfigJson"), BOOLEANS),
    **dict.fromkeys(("EnvExclude", "RunTimeEnvExclude"), EXPRESSIONS),
    "CreateEnvFile": ENV_FILES,
    "DebugFlags": FLAGS,
}
FORMS = st.sampled_from(
    ['"{}"'] * 6 + ["{}", "{}", "'{}'", '"{}', '{}"', '"{}"x', '"{}" x', '"{}" # x', '""{}"']
)
SIGNS = st.sampled_from(["="] * 8 + ["+=", "-=", "==", " = ", "= ", ""])


@st.composite
def pairs(draw: st.DrawFn, keys: st.SearchStrategy[str]) -> str:
    """One line, right in most of its parts."""
    key = draw(keys)
    value = draw(st.one_of(*[VALUES.get(key, COMMANDS)] * 5, ANYTHING))
    shown = draw(st.sampled_from([key, key, key.lower(), key.upper(), key + "s"]))
    return draw(BLANKS) + shown + draw(SIGNS) + draw(FORMS).format(value) + draw(BLANKS)


OTHER_LINES = st.sampled_from(
    [
        "# a comment",
        "# a comment that seems to go on \\",
        "",
        " ",
        "\\",
        "\\\\",
        "RunTimeRun",
        "Include inner.conf",
        "include\tinner.conf ",
        "INCLUDE inner.conf # with a comment",
        " Include inner.conf",
        "Include inner.conf x",
        "Include inner*.conf",
        "Include %c.conf",
        "Includes inner.conf",
        "NodeName=n1 CPUs=2",
        'RunTimeRun="a \\\nb"',
        'RunTimeRun="a \\  \n b"',
        'RunTimeRun="a \\ # c\nb"',
        "RunTimeRun=a\\\n",
        "RunTimeRun=a\0b",
    ]
)
ENDS = st.sampled_from(["\n"] * 8 + ["\r\n", " \\\n", ""])
RIGHT = st.sampled_from(
    [
        "IgnoreFileConfigJson=true\n",
        'RunTimeRun="a"\nRunTimeKill="b"\nRunTimeDelete="c"\n',
        'RunTimeCreate="a"\nRunTimeStart="b"\nRunTimeKill="c"\nRunTimeDelete="d"\nRunTimeQuery="e"\n',
        "",
    ]
)
LINES = st.one_of(pairs(st.sampled_from(KEYS)), OTHER_LINES)


@st.composite
def files(draw: st.DrawFn) -> dict[str, bytes]:
    """The files of a folder by name: oci.conf and the one that it may include."""
    texts = {}
    for name, most in (("oci.conf", 4), ("inner.conf", 1)):
        lines = draw(st.lists(st.tuples(LINES, ENDS), max_size=most))
        start = draw(RIGHT) if name == "oci.conf" else ""
        texts[name] = (start + "".join(line + end for line, end in lines)).encode(errors="surrogateescape")
    return texts
