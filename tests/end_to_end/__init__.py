"""The command line from image to catalogue, held against SExtractor and against itself."""
