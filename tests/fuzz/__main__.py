"""``python -m tests.fuzz 20000``: mutated inputs by hand, each refused within two seconds and half a gigabyte.

Behind the number of inputs, names of readers choose among them.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.mutations import mutated
from tests.fuzz.readers import READERS, Reader, tried

_LONG_S = 2.0
_KEPT = Path(tempfile.gettempdir()) / "moesim-fuzz"


def main(many: int, names: list[str]) -> int:
    warnings.simplefilter("error")
    _KEPT.mkdir(exist_ok=True)
    chosen = [READERS[name] for name in names] if names else list(READERS.values())
    whole: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for reader in chosen:
            whole += _tried(reader, -(-many // len(chosen)), Path(place))
    print(f"{sum(whole.values()):,} inputs: {dict(whole)}")
    return min(whole["wrong"] + whole["slow"], 1)


def _tried(reader: Reader, many: int, place: Path) -> Counter[str]:
    """How a reader took so many inputs; what it took wrong is kept and told."""
    found: Counter[str] = Counter()
    seen: set[str] = set()
    longest = 0.0

    @seed(random.randrange(2**32))
    @settings(max_examples=many, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutated(reader.seeds))
    def one(data: bytes) -> None:
        nonlocal longest
        began = time.perf_counter()
        try:
            how, kind = tried(reader, data, place), ""
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            how, kind = (
                "wrong",
                f"{type(error).__name__}: {str(error)[:200]!r} ({Path(last.filename).name}:{last.lineno})",
            )
        took = time.perf_counter() - began
        longest = max(longest, took)
        if how == "refused" and took > _LONG_S:
            how, kind = "slow", f"{took:.0f} s to refuse"
        found[how] += 1
        if kind and kind not in seen:
            kept = _KEPT / f"{reader.name.replace(' ', '-')}-{len(seen)}{reader.suffix}"
            kept.write_bytes(data)
            seen.add(kind)
            print(f"  {reader.name}: {kind}\n    {kept}", flush=True)

    one()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{reader.name}: {dict(found)}, slowest {longest:.2f} s, {peak:.0f} MB", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
