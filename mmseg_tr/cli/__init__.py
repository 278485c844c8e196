"""The command line: options, the `mmseg-tr` command, launching. The top of the package: nothing imports it."""
