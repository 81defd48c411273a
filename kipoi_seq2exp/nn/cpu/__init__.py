"""The network's layers on a CPU: compiled kernels that walk a window tile by tile, there and back."""
