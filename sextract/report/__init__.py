"""Where the memory of a run went: its timeline and a closing table, as files for people and for scripts."""

# What a report can be.
SUFFIXES = (".html", ".png", ".json", ".csv")
