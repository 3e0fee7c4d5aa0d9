"""`python -m fromnoise` is the `fromnoise` command."""

from fromnoise.cli import main

main()
