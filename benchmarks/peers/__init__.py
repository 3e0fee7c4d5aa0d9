"""Other libraries on the same data, cores and clock: what `benchmarks.time_to_quality` compares fromnoise with.

`python -m benchmarks.peers NAME …` trains and samples one contestant in a process of its own; `registry.py` lists them.
"""
