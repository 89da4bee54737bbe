"""The task's own environment: `slurm_oci.job`."""

import os
import subprocess
import sys

import pytest
from conftest import OWN_UID, WORDS, Slurm, request
from hypothesis import given
from hypothesis import strategies as st

from slurm_oci import job
from slurm_oci.problems import EnvironmentUnreadable

NAMES = WORDS.filter(lambda text: text and "=" not in text)
ME = request(uid=OWN_UID, job=42, step=3, task=5)


@pytest.fixture
def spool(tmp_path):
    (tmp_path / "task-5").mkdir()
    return tmp_path


def read(spool, environ=None):
    trace = []
    return job.read(ME.replace(spool=str(spool)), environ or {}, trace), trace


@given(st.dictionaries(NAMES, WORDS, min_size=1))
def test_variables_written_with_nul_are_read_back(env):
    """Of CreateEnvFile=null every name and every value comes back, newlines and all bytes included."""
    content = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    assert job.parse(content) == env


@given(st.dictionaries(NAMES.filter(lambda n: "\n" not in n), WORDS.filter(lambda v: "\n" not in v)))
def test_variables_written_with_newlines_are_read_back(env):
    """Of CreateEnvFile=newline every variable that Slurm writes comes back."""
    content = b"".join(os.fsencode(f"{name}={value}\n") for name, value in env.items())
    assert job.parse(content) == env


@pytest.mark.parametrize(
    ("content", "env"),
    [
        (b"", {}),
        (b"A=1", {"A": "1"}),
        (b"A=1\0B=x\ny\0", {"A": "1", "B": "x\ny"}),
        (b"A=1\nB=\n", {"A": "1", "B": ""}),
        (b"A=b=c\0", {"A": "b=c"}),
        (b"=x\0rubbish\0A=1\0", {"A": "1"}),
        (b"BASH_FUNC_module%%=() { :\n}\0", {"BASH_FUNC_module%%": "() { :\n}"}),
    ],
)
def test_an_environment_file_s_form_is_seen_from_it(content, env):
    """A NUL anywhere means the NUL form; what is no variable is left out."""
    assert job.parse(content) == env


def test_the_task_s_own_file_comes_before_the_step_s(spool):
    """From 25.05 on the file lies in the task's directory; an older Slurm's beside it is not read."""
    (spool / "environment").write_bytes(b"WHERE=step\0")
    assert read(spool)[0].env == {"WHERE": "step"}
    (spool / "task-5/environment").write_bytes(b"WHERE=task\0")
    found, trace = read(spool)
    assert (found.env, found.env_from) == ({"WHERE": "task"}, f"{spool}/task-5/environment")
    assert trace == [("environment", f"{spool}/task-5/environment", "CreateEnvFile is set in oci.conf")]


def test_a_spool_that_is_no_directory_is_no_failure(spool):
    """Where the words have no spool directory, the file is just not there."""
    (spool / "file").write_text("")
    assert read(spool / "file")[0].env_from == "arguments"


def test_without_a_file_the_arguments_and_the_passwd_entry_must_do(spool):
    """The job's variables are lost, and the trace says so and how to have them."""
    found, trace = read(spool, {"SECRET_OF_SLURMD": "1"})
    assert found.env == {
        "HOME": found.home,
        "USER": found.user,
        "LOGNAME": found.user,
        "SHELL": found.shell,
        "PATH": job.STANDARD_PATH,
        "SLURM_JOB_ID": "42",
        "SLURM_STEP_ID": "3",
        "SLURM_LOCALID": "5",
    }
    why = "no environment file: the job's variables are lost. Set CreateEnvFile=null in oci.conf, as"
    assert trace == [("environment", "arguments", f"{why} `slurm-oci-plugins oci-conf` does")]


def test_the_process_s_environment_counts_where_it_is_this_job_s(spool):
    """25.05.3 to 25.11.1 start the entry point in the job's environment, known by its job's number."""
    assert read(spool, {"SLURM_JOB_ID": "42"})[0].env_from == "process"
    assert read(spool, {"SLURM_JOB_ID": "43"})[0].env_from == "arguments"


def test_our_own_variables_are_gone(spool):
    """SLURM_OCI_LINE and SLURM_OCI_HOOK are between the shell and us: nobody after us sees them."""
    (spool / "environment").write_bytes(b"SLURM_OCI_LINE=x\0SLURM_OCI_HOOK=y\0SLURM_OCI_HOME=none\0")
    assert read(spool)[0].env == {"SLURM_OCI_HOME": "none"}


@pytest.mark.skipif(OWN_UID == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_is_a_problem(spool):
    """Going on without the job's environment would run another job than was asked for."""
    (spool / "environment").write_bytes(b"A=1\0")
    (spool / "environment").chmod(0)
    with pytest.raises(EnvironmentUnreadable, match="Permission denied"):
        read(spool)


def test_a_directory_in_place_of_the_file_is_a_problem(spool):
    """What is there and is no file is named, root or not."""
    (spool / "environment").mkdir()
    with pytest.raises(EnvironmentUnreadable, match="Is a directory"):
        read(spool)


HANDED_BACK = """
import json, os, sys
from slurm_oci import job
from slurm_oci.values import Request
request = Request("/image", sys.argv[1], "alice", os.geteuid(), "node1", 42, 3, 5)
print(json.dumps(job.read(request, dict(os.environ), []).as_dict()))
"""


def handed_back(spool, env):
    """The job context of a process that was started in `env`."""
    import json

    done = subprocess.run([sys.executable, "-c", HANDED_BACK, spool], env=env, capture_output=True)
    return json.loads(done.stdout)


def test_after_the_hook_the_process_s_environment_counts(spool):
    """With this very task's mark, what the hook has set, changed and unset is the job's environment."""
    (spool / "environment").write_bytes(b"A=file\0GONE=1\0")
    found = handed_back(spool, {"SLURM_OCI_HOOK": "42.3.5", "A": "hook", "NEW": "1"})
    assert (found["env"], found["env_from"]) == ({"A": "hook", "NEW": "1"}, "process")


def test_another_task_s_mark_is_no_mark(spool):
    """A job that a hook submits inherits the mark, which then says nothing."""
    (spool / "environment").write_bytes(b"A=file\0")
    assert handed_back(spool, {"SLURM_OCI_HOOK": "41.3.5", "A": "hook"})["env"] == {"A": "file"}


@pytest.mark.parametrize("name", ["BASH_FUNC_module%%", "with.dot", "with-dash", "é"])
def test_variables_that_shells_drop_come_back_from_the_file(spool, name):
    """The hook's shell loses what no shell variable can be called, and nobody meant it to."""
    (spool / "environment").write_bytes(f"{name}=() {{ :; }}\0".encode())
    assert handed_back(spool, {"SLURM_OCI_HOOK": "42.3.5", "A": "1"})["env"] == {name: "() { :; }", "A": "1"}


def test_python_s_own_addition_is_not_the_job_s(spool):
    """In the C locale Python adds LC_CTYPE to what it sees; the job never had it (PEP 538)."""
    found = handed_back(spool, {"SLURM_JOB_ID": "42", "LC_ALL": ""})
    assert found["env"] == {"SLURM_JOB_ID": "42", "LC_ALL": ""}


def test_home_comes_from_the_passwd_entry(slurm: Slurm):
    """$HOME of slurmd's or of the job's says nothing about where the hook is looked for."""
    slurm.hook("#!/bin/sh\necho from the home in passwd\n")
    slurm.job["HOME"] = slurm.environ["HOME"] = "/nowhere"
    ended = slurm.run("/image", "true")
    assert (ended.out, ended.err) == ("from the home in passwd\n", "")
