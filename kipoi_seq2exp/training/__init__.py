"""Training: from one YAML of settings to a run folder, from a run folder to served weights, and the scores of both."""
