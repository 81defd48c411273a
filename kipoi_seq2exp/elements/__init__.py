"""Regulatory elements: calling them from the mask, the evidence for each, and the files they are written to."""
