"""The subcommands: each a module, added to the command line by `kine.commands.command_line`."""
