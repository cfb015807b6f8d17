"""Bytes that nobody meant: every reader refuses in a sentence, or says nothing that breaks a law.

``python -m tests.fuzz 20000`` tries as many by hand; here a seeded tenth of that, the same each time.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS, tried

EACH = 70


@pytest.mark.parametrize("name", READERS)
def test_no_reader_is_surprised(name, tmp_path, monkeypatch):
    reader = READERS[name]
    monkeypatch.chdir(tmp_path)

    @settings(max_examples=EACH, derandomize=True, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutated(reader.seeds))
    def one(data):
        tried(reader, data, tmp_path)

    one()


@pytest.mark.parametrize("name", READERS)
def test_seeds_are_accepted(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "GGUF":
        pytest.skip("its seeds are no files")
    for seed in READERS[name].seeds:
        assert tried(READERS[name], seed.encode(), Path(tmp_path)) == "accepted"
