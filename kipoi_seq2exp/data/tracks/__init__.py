"""Tracks: values per base from signal files, peaks and contacts, each by one reader."""
