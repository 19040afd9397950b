"""The grid of benchmarks/quality.py: what is trained, how long it may take, how it is measured, what comes out.

scenes     names of scenes, and where they lie
runs       one cell of the grid: its command, and the name of its result
plan       methods × scenes × budgets × iterations × seeds
results    the JSON file of a finished run
estimates  what a run that was never made will take
measuring  one run: train, render, score, write
machine    what figures have to be read with
"""
