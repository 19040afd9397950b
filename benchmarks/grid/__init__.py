"""The grid of benchmarks/quality.py and its report: what is trained, how it is measured, what came out.

scenes      names of scenes, and where they lie
runs        one cell of the grid: its command, and the name of its result
plan        methods × scenes × budgets × iterations × seeds
results     the JSON file of a finished run
estimates   what a run that was never made will take
measuring   one run: train, render, score, write
machine     what figures have to be read with
statistics  means with their spread, differences with their error
groups      results sorted into what may be compared
tables      plots      pictures      of docs/results.md
"""
