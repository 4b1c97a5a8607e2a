"""DOOR: scripts for batch systems; ``script.py`` has the registry, each other file a system."""
