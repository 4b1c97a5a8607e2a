"""Makes the twins of the detection's tests importable for the tests of this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "detection"))
