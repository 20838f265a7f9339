"""What a kernel of `make lab` does before its first cell (PYTHONSTARTUP)."""

from doggos_helpers.cells import explain_missing_names

explain_missing_names()
del explain_missing_names
