"""From files to stored predictions: what a run is asked for, windows through the network, the results on disk."""
