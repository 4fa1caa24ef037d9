"""One training as a folder, and the store that holds the folders."""
