"""Figures of a model in a folder, so that it is measured once and not once in each process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from memos_core.cube import canonical_json
from memos_core.engine.kv.assembly import Method
from memos_core.engine.kv.calibration import Calibration

__all__ = ["CalibrationFolder"]

SHAPE = TypeAdapter(Calibration)


@dataclass(frozen=True, slots=True)
class CalibrationFolder:
    """One JSON file for each model, probe set and choice of methods. Safe among processes; made when first written."""

    path: Path

    def read(self, mark: str, probes: str, methods: Sequence[Method]) -> Calibration | None:
        """Return the figures of the model with that fingerprint, or None where there are none that can be read."""
        try:
            found = SHAPE.validate_json(self.file(mark, probes, methods).read_bytes())
        except (OSError, ValidationError):
            return None  # what cannot be read is measured anew and replaced
        asked = (mark, probes, tuple(methods))
        return (
            found if (found.fingerprint, found.probes, tuple(each.method for each in found.figures)) == asked else None
        )

    def write(self, calibration: Calibration) -> None:
        """Keep ``calibration`` in the place of an earlier one. Raises ``OSError`` where it cannot be written."""
        methods = [each.method for each in calibration.figures]
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path) as folder:
            file = Path(folder) / "figures.json"
            file.write_bytes(SHAPE.dump_json(calibration, indent=2))
            os.replace(file, self.file(calibration.fingerprint, calibration.probes, methods))

    def file(self, mark: str, probes: str, methods: Sequence[Method]) -> Path:
        """Return where these figures lie."""
        parts = [mark, probes, [[each.name, each.ratio, each.check_layer] for each in methods]]
        return self.path / f"{hashlib.sha256(canonical_json(parts)).hexdigest()[:32]}.json"
