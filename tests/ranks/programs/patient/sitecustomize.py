"""For ranks of torchrun's: without this, torch 2.13 now and then aborts one at its end, or has it wait for ever."""

from launcher.worker.agent import gloo

gloo.settle()
