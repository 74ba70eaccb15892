"""One module a command: `SUMMARY`, and `main(arguments, program)`, which answers --help before torch is imported."""
