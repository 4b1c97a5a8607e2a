"""Side by side with Debian's ``source-extractor``: ``reference`` runs it, ``compare`` matches and judges catalogues."""
