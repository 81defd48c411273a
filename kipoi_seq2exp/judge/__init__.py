"""Judging the mask and the predictions: against known truths, tested pairs, called peaks and other models."""
