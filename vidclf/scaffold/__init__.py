"""``vidclf init``: a first study of a folder of clips."""
