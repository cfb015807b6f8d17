"""``python -m tests.faults 10``: end every command that writes at ten random moments by each of three signals."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.commands import COMMANDS, ended, moments, undisturbed


def main(many: int) -> int:
    rng, wrong, tried = random.Random(), 0, 0
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as place:
            seconds, reference = undisturbed(command, Path(place))
        for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            for after_s in moments(seconds, many, rng):
                with tempfile.TemporaryDirectory() as place:
                    found = ended(command, Path(place), how, after_s, reference)
                tried += 1
                wrong += bool(found)
                for problem in found:
                    print(f"  {command.name}: {how.name} after {after_s:.2f} s: {problem}", flush=True)
        print(f"{command.name}: {seconds:.2f} s", flush=True)
    print(f"{tried} ended, {wrong} wrong")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
