"""``python -m libra_guard``: the ``libra`` command."""

from libra_guard.cli.main import main

main()
