"""Checkers: each judges one promise by the evidence of a whole run (`base`)."""
