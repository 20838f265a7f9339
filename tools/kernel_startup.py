"""What a kernel of `make lab` does before its first cell (PYTHONSTARTUP)."""

from doggos_helpers.cluster.kernel import prepare_kernel

prepare_kernel()
del prepare_kernel
