"""Grids of runs, one file each; `python experiments/study.py NAME` runs the file's study()."""
