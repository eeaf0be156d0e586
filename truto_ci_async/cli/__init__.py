"""The ``truto-ci`` command line: parse the options, call the library, print the result.

Data goes to stdout; everything else goes to stderr. Nothing outside this folder depends on it, and what the library
can do for every caller does not belong here.

Read in this order, top to bottom; each file imports only from those below it:

``main``           the entry point, which loads ``run``
``run``            runs a command, handles signals and errors, returns the exit code
``commands``       the table of commands, and the short ones
``records``        one record, the schema of a method, one account
``listing``        lists of any resource: read one and write it page by page
``pull``           ``pull``: many accounts into a folder, stopping in order on a signal
``pull_progress``  progress, summary and report of a pull
``connection``     opens the client, or a sandbox with a client
``arguments``      commands and options as argparse sees them
``resources``      what each resource's command takes and shows
``values``         turns the text of an option into a value
``messages``       exit codes, error messages, advice, and how to continue
``output``         formats, and where the bytes go

To add a command, write its function, enter it in ``commands.COMMANDS`` and describe its options in ``arguments``. A
resource needs an entry in ``resources`` alone.
"""
