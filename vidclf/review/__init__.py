"""`vidclf review`: a user looks at doubtful clips, and a mended manifest is written."""
