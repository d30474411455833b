"""`python -m lcodec` is `lcodec`."""

from lcodec.cli import main

main()
