"""Recorded results of long runs, installed with the package as savae_lite.recorded."""
