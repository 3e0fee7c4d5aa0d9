"""Measurements of fromnoise on real data, and the frozen judges that make them comparable."""
