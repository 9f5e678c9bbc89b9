"""How much of the annotated evidence a search recalls, over all questions of a file: recall@1, @5, @10.

    python benchmarks/evidence_recall.py --input CONVERSATIONS.json.gz

The file is not part of the project, and none of its texts go into the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from surroundings import surroundings

RESULT = Path(__file__).parent / "results" / "evidence_recall.json"


def main() -> None:
    """Runs ``memos-mag demo`` on the file and keeps its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="annotated conversations")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write the figures to")
    options = parser.parse_args()
    command = [sys.executable, "-m", "memos_core.interface.cli", "demo", "--input", str(options.input), "--json"]
    outcome = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    options.out.write_text(json.dumps(result(options.input.name, outcome), indent=2) + "\n")


def result(name: str, outcome: dict) -> dict:
    """Returns the figures with what they were measured on, without any text of the file."""
    figures = {key: value for key, value in outcome.items() if key not in ("sample", "users")}
    return {
        **surroundings({"file": name}),
        **figures,
    }


if __name__ == "__main__":
    main()
