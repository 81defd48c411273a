"""The computing wing: the network, its arithmetic and its weights. Knows nothing of files of the genome."""
