"""The documents, and the code that makes their pictures."""
