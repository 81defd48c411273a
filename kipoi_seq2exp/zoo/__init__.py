"""The served models: where they live, loading and converting them, and everything that is about Kipoi."""
