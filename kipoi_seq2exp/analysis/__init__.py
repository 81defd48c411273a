"""What predictions are used for: run and stored, cut into elements, scored, drawn.

Stands above `data` and `nn` and joins them. Open `predict` first; `store` says what a result holds.
"""
