"""One file per verb of the command line: what the user writes -> a job of a lower room."""
