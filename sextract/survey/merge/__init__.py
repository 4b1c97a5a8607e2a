"""The catalogues of a survey as one Parquet data set by sky position, with duplicates of overlapping images flagged.

What happens when is ``merging.py``'s.  Which images there are is told by ``manifests.py``, their rows by ``catalogues.py``;
``sky.py`` has the HEALPix pixels, ``scratch.py`` what is kept on disk meanwhile, ``duplicates.py`` the rule of duplicates,
``dataset.py`` the files, ``quality.py`` the table of images.  Catalogues are made elsewhere; nothing here opens an image.
"""
