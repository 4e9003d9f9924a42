"""`python -m sbora_bench.cli`, as `accelerate launch -m` starts it."""

from sbora_bench.cli.main import main

main()
