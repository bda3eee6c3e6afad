"""The stages of training: the one table of them, and a folder for each."""
