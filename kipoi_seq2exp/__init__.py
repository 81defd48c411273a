"""Seq2Exp for Kipoi: gene expression from DNA and epigenomic tracks, and the DNA that drives it."""

__version__ = "0.1.0"
