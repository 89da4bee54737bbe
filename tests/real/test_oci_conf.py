"""The oci.conf files on a real Slurm: its own parser's verdict, and containers run by them."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from images import IMAGES
from oci_conf_texts import files

from slurm_oci import accepted
from slurm_oci.conf import read
from slurm_oci.guide import example
from slurm_oci.lint import lint
from slurm_oci.ociconf import MODES, generate
from slurm_oci.pattern import Version

HERE = Path(__file__).resolve().parent
FORMS = [(runtime, mode) for runtime, modes in MODES.items() for mode in modes]
BUNDLES = ["crun", "runc"]
TABLE = HERE.parent.parent / "docs" / "oci-conf.json"
UPDATE = os.environ.get("SLURM_OCI_UPDATE") == "1"
AT_ONCE = 250  # folders that the oracle is given in one call
RANDOM_FILES = int(os.environ.get("SLURM_OCI_RANDOM_FILES", "500"))


@pytest.fixture
def verdicts(slurm):
    """Asks Slurm's parser about folders of files; what it says of each."""
    place = slurm.root.path("/tmp") / "oci-confs"
    slurm.root.write("/tmp/oracle.py", (HERE / "oci_conf_oracle.py").read_text())

    def ask(folders):
        shutil.rmtree(place, ignore_errors=True)
        for number, texts in enumerate(folders):
            (place / str(number)).mkdir(parents=True)
            for name, text in texts.items():
                (place / str(number) / name).write_bytes(text)
        lines = []
        for start in range(0, len(folders), AT_ONCE):
            end = min(start + AT_ONCE, len(folders))
            named = [f"/tmp/oci-confs/{number}" for number in range(start, end)]
            status, out, error = slurm("python3", "/tmp/oracle.py", *named, user="root", timeout=600)
            assert (status, error) == (0, b"")
            lines += out.decode().splitlines()
        return [json.loads(line) for line in lines], place

    return ask


def test_our_reader_agrees_with_slurms(slurm, verdicts):
    """On random files; `include-end` is the one where Slurm's verdict hangs on its memory."""
    version = Version.parse(slurm.root.slurm_version)
    folders = []

    @settings(max_examples=RANDOM_FILES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(files())
    def collect(texts):
        folders.append(texts)

    collect()
    found, place = verdicts(folders)
    for texts, one in zip(folders, found):
        path = str(place / one["folder"] / "oci.conf")
        codes = {fault.kind for fault in accepted.refusals(read(path, accepted.KEYS), path, version)}
        if "include-end" not in codes:
            assert (one["verdict"] == "accepted") == (not codes), (texts, codes, one["said"])
    assert {"accepted", "rejected"} <= {one["verdict"] for one in found}


@pytest.fixture
def bundle(slurm):
    """A bundle of alice's own, which runc and crun can run for her."""
    script = f"""
        rm -rf bundle && mkdir bundle && cd bundle && cp -a {IMAGES["rootfs"]} rootfs && chmod -R u+w rootfs
        runc spec --rootless && sed -i 's/"terminal": true/"terminal": false/; s/"readonly": true/"readonly": false/' config.json
    """
    assert slurm("sh", "-ec", script)[0] == 0
    slurm("sh", "-c", "mkdir -p -m 1777 /run/slurm-oci && chmod 1777 /run/slurm-oci", user="root")
    yield "/home/alice/bundle"
    slurm("sh", "-c", "rm -rf bundle container-*.out")


def conf(slurm, runtime, mode):
    version = Version.parse(slurm.root.slurm_version)
    slurm.root.set_oci_conf(generate(runtime, mode, version, "/opt/slurm-oci"))


def left_in_state(slurm):
    """The containers; crun has a directory of its own there that it keeps."""
    return slurm("sh", "-c", "find /run/slurm-oci/oci-* -maxdepth 1 -name 'node1.*'", user="root")[1]


SCRIPT = 'echo "$SLURM_JOB_ID it\'s"; exit 3'


@pytest.mark.parametrize("runtime", BUNDLES)
def test_run_brings_output_and_status(slurm, bundle, runtime):
    """And leaves no state; nor does a batch job's output hold an error of Slurm's."""
    conf(slurm, runtime, "run")
    status, out, _ = slurm.srun(bundle, "/bin/sh", "-c", SCRIPT)
    assert (status, out.split(b" ", 1)[1]) == (3, b"it's\n")
    assert slurm.batch(None, f"--container={bundle}", "--wrap", "echo in batch") == (0, b"in batch\n")
    slurm.root.wait_idle()
    assert left_in_state(slurm) == b""


@pytest.mark.parametrize("runtime", BUNDLES)
def test_create_and_start_writes_into_a_file(slurm, bundle, runtime):
    """The only way there is; the guide's line hangs."""
    conf(slurm, runtime, "create-start")
    status, out, _ = slurm.srun(bundle, "/bin/sh", "-c", "echo in a file")
    assert (status, out) == (0, b"")
    assert slurm("sh", "-c", "cat container-*.0.0.out")[1] == b"in a file\n"
    slurm.root.wait_idle()
    assert left_in_state(slurm) == b""


@pytest.mark.parametrize("runtime", BUNDLES)
def test_what_a_killed_runtime_leaves_is_deleted_at_the_steps_end(slurm, bundle, runtime):
    """All tasks' containers, by Slurm's root as the user."""
    conf(slurm, runtime, "run")
    command = ("/bin/sh", "-c", "echo up; sleep 1000")
    process = slurm.root.popen(["srun", "-n2", f"--container={bundle}", *command], stdout=-1, stderr=-1)
    assert process.stdout.readline() + process.stdout.readline() == b"up\nup\n"
    assert len(left_in_state(slurm).splitlines()) > 1
    slurm("pkill", "-KILL", "-x", runtime, user="root")
    slurm("scancel", "--user=alice", "--signal=KILL")
    process.communicate(timeout=90)
    slurm.root.wait_idle()
    assert left_in_state(slurm) == b""


@pytest.mark.parametrize("runtime", ["charliecloud", "singularity"])
def test_a_runtime_of_its_own_line_gets_words_and_environment(slurm, runtime):
    """In a step and, with its script, in a batch job; releases that quote wrongly take another way."""
    tool = {"charliecloud": "ch-run", "singularity": "singularity"}[runtime]
    if not slurm.root.has(tool):
        pytest.skip(f"{slurm.root.suite} has no {tool}")
    conf(slurm, runtime, "run")
    image = IMAGES["rootfs"]
    words = ("/bin/echo", "it's", "", '$HOME "x"', "a\nb")
    assert slurm.srun(image, *words)[:2] == (0, b'it\'s  $HOME "x" a\nb\n')
    odd = {"A": "it's\n$(x)"}
    assert slurm("srun", f"--container={image}", "/bin/sh", "-c", 'echo "$A"', env=odd)[1] == b"it's\n$(x)\n"
    assert slurm.batch(None, f"--container={image}", "--wrap", "echo in batch") == (0, b"in batch\n")


# Every example of the guide, for the table in docs/lint.md

NVIDIA = "nvidia-container-runtime"
TOOLS = {"charliecloud": "ch-run", "singularity-4.0-oci": "", "singularity-3.8-oci": ""}
NO_OCI_MODE = "not run: needs sudo, and Debian has Apptainer, which is without Singularity's OCI mode"


def outcome(slurm, runtime, mode, bundle):
    """How a task ends under our file for this runtime, or why it was not tried."""
    tool = TOOLS.get(runtime, runtime)
    if not tool:
        return NO_OCI_MODE
    if runtime not in ("multi", NVIDIA) and not slurm.root.has(tool):
        return f"not run: Debian {slurm.root.suite} has no {tool}"
    conf(slurm, runtime, mode)
    image = bundle if runtime in (*BUNDLES, NVIDIA) else IMAGES["rootfs"]
    chosen = {"SLURM_OCI_RUNTIME": runtime} if runtime == "charliecloud" else {}
    status, out, error = slurm.srun(image, "/bin/echo", "it", "runs", **chosen)
    if mode == "create-start":
        out += slurm("sh", "-c", "cat container-*.out; rm -f container-*.out")[1]
    if (status, out) != (0, b"it runs\n"):
        return f"fails: {status} {(out + error).decode(errors='replace')}"
    by_apptainer = tool == "singularity" and b"apptainer" in slurm(tool, "--version")[1]
    others = {NVIDIA: ", with a program that becomes runc in the place of NVIDIA's"}
    return "runs" + (", by Apptainer" if by_apptainer else others.get(runtime, ""))


def codes(place, text, version):
    path = place / "oci.conf"
    path.write_text(text)
    return sorted({f"{finding.code} ({finding.severity})" for finding in lint(str(path), version)})


def test_every_example_of_the_guide(slurm, verdicts, bundle, tmp_path):
    """Ours is generated for this release, linted, taken by Slurm's own parser and run; the guide's own
    is judged by the same parser, with which `lint` agrees."""
    version = Version.parse(slurm.root.slurm_version)
    ours = [generate(*form, version, "/opt/slurm-oci") for form in FORMS]
    guides = [example(*form) for form in FORMS]
    found, _ = verdicts([{"oci.conf": text.encode()} for text in (*ours, *guides)])
    told = [one["verdict"] for one in found]
    slurm.root.write(f"/usr/local/bin/{NVIDIA}", '#!/bin/sh\nexec runc "$@"\n', mode=0o755)
    rows = {}
    for number, form in enumerate(FORMS):
        rows[" ".join(form)] = {
            "guide": told[len(FORMS) + number],
            "lint": codes(tmp_path, ours[number], version),
            "parser": told[number],
            "run": outcome(slurm, *form, bundle),
        }
        rejected = any("(rejected)" in code for code in codes(tmp_path, guides[number], version))
        assert (rows[" ".join(form)]["guide"] == "rejected") == rejected, form
    slurm("rm", f"/usr/local/bin/{NVIDIA}", user="root")
    assert {form: row["parser"] for form, row in rows.items()} == dict.fromkeys(rows, "accepted")
    assert [row["run"] for row in rows.values() if not row["run"].startswith(("runs", "not run"))] == []
    only_sudo = ["sudo (critical)"]
    expected = {form: only_sudo if form.startswith("singularity-") else [] for form in rows}
    assert {form: row["lint"] for form, row in rows.items()} == expected
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    if UPDATE:
        table[slurm.root.suite] = {"slurm": str(version), "examples": rows}
        TABLE.write_text(json.dumps(dict(sorted(table.items(), reverse=True)), indent=1) + "\n")
    assert table[slurm.root.suite]["examples"] == rows, "SLURM_OCI_UPDATE=1 writes docs/oci-conf.json anew"
