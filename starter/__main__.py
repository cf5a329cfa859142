"""``python -m starter``: the ``hengdan`` command."""

from starter.cli import main

main()
