"""From a finished run to served weights: in this package's group, or in a group of one's own."""
