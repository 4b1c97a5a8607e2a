"""Tests: folders mirror the package; ``scenes`` makes images of known content, ``parity`` runs SExtractor beside us."""
