"""The commands of `seq2exp`, a module per group; each has `add_to(subparsers)` and functions `run(args, say)`.

A command reports through `say`, one line per call, and through its exit status; only `cli` prints. Heavy imports stay
inside the functions, so that `--help` is immediate.
"""
