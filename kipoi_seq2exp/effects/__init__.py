"""What changes a prediction: variants of the DNA, and the bases and track values that made it."""
