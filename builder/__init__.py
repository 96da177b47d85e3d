"""Bake golden images of an SMTP relay, prove that they relay mail, launch them and run fleets."""

__version__ = "0.1.0"
