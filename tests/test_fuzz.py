"""The longer run of the laws, `tests/fuzz.py`, with laws of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parent / "fuzz.py"
CONFTEST = """
from hypothesis import settings
settings.register_profile("long", max_examples=100_000, database=None, deadline=None)
"""
LAW = """
import time
from hypothesis import given, strategies as st

@given(st.integers(0, 1 << 40))
def test_a_law(number):
    time.sleep(SECONDS)
    assert TRUE
"""


@pytest.mark.parametrize(("true", "status"), [("number < 1000", 1), ("number >= 0", 0)])
def test_a_law_that_fails_as_the_time_ends_is_a_failure(tmp_path, true, status):
    """Also where Hypothesis is still looking for its smallest example; what is merely slow is none."""
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(FUZZ, tests)
    (tests / "conftest.py").write_text(CONFTEST)
    (tests / "test_law.py").write_text(LAW.replace("SECONDS", "0.1").replace("TRUE", true))
    words = ["--minutes", "0.05", "--jobs", "1", "--rounds", "1", "--seed", "7"]
    done = subprocess.run([sys.executable, tests / "fuzz.py", *words], capture_output=True, text=True)
    assert done.returncode == status, done.stdout
    assert ("failed: python tests/fuzz.py --seed 7 --rounds 1" in done.stdout) == bool(status)
    assert (f"assert {true.replace('number', '1000')}" in done.stdout) == bool(status)
