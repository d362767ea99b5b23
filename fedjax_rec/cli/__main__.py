"""``python -m fedjax_rec.cli``: the command, where it is not on the path."""

from fedjax_rec.cli import main

main()
