"""JSON without importing `json`: `slurm_oci.plainjson`."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_oci import plainjson

TEXTS = st.text(st.characters(codec=None))  # lone surrogates too: bytes that are not UTF-8
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(VALUES, st.sampled_from([None, 1]), st.booleans())
def test_what_json_writes_is_read(value, indent, ascii_only):
    """Whatever its form."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert plainjson.loads(f" \n{text}\t\r\n") == value


@given(VALUES, st.booleans())
def test_it_writes_what_json_writes(value, ensure_ascii):
    """To the letter."""
    assert plainjson.dumps(value, ensure_ascii) == json.dumps(value, ensure_ascii=ensure_ascii)


@given(st.text(st.sampled_from('{}[]",:\\/ \n\t0123456789.eE+-truefalsnNI\x00"é\ufeff'), max_size=12))
@example("")
@example("[1] x")
@example("\ufeff{}")
@example('{"a": 1,}')
@example("NaN")
def test_it_judges_any_text_as_json_does(text):
    """The same value, or the same error with the same words."""

    def told(loads):
        try:
            return repr(loads(text))
        except (ValueError, RecursionError) as error:
            return type(error), str(error)

    assert told(plainjson.loads) == told(json.loads)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_what_is_too_deep_is_an_error(text):
    """As of `json`."""
    with pytest.raises(RecursionError):
        plainjson.loads(text)


@pytest.mark.parametrize("value", [{1, 2}, {"a": object()}])
def test_what_json_has_no_form_for_is_an_error(value):
    """As of `json`."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        plainjson.dumps(value)


def test_nothing_is_imported_for_it():
    """Neither `json` nor `re`."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'dispatch')!r}]; from slurm_oci import plainjson;"
        "assert plainjson.loads(plainjson.dumps({'a': [1, 'ä']})) == {'a': [1, 'ä']};"
        "assert not {'json', 're'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
