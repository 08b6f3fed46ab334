"""`python -m launcher.cli` is `ascend-launch`."""

from launcher.cli import main

main()
