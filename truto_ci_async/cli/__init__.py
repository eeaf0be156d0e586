"""The ``truto-ci`` command line: parse the options, call the library, print the result.

Data goes to stdout; everything else goes to stderr. Nothing outside this folder depends on it, and what the library
can do for every caller does not belong here.

Read in this order, top to bottom; each file imports only from those below it:

``main``           the entry point, which loads ``run``
``run``            runs a command, handles signals and errors, returns the exit code
``app``            the table of commands, each loaded when it is used; what to say about a wrong command line
``unified``        the commands of resources, beside ``accounts``, ``pull``, ``report``, ``sandbox``, ``completion``
``engine``         a pull on a cluster
``records``        one record, the schema of a method
``listing``        lists of any resource: what is asked, in each of the response formats
``pages``          where a list goes and in which form, page by page
``pull_progress``  progress, summary and report of a pull
``session``        login, logout, profiles, whoami; ``doctor`` looks for what is wrong
``profiles``       tokens that are kept, and which one a command uses
``kept_files``     where profiles are kept, and the ids of accounts that commands have listed, for completion
``connection``     opens the client, or a sandbox with a client
``activity``       what a client waits for, and the line that says how far a command is
``resources``      what each resource's command takes and says
``options``        the options that commands share, and a command as Click sees it
``values``         turns the text of an option into a value
``messages``       exit codes, error messages, advice, and how to continue
``output``         formats, and where the bytes go

To add a command, write a file with a function ``command`` that describes it and a coroutine that runs it, and enter it
in ``app.COMMANDS``. Import what runs it inside the coroutine: help and completion load neither client nor models. A
resource needs an entry in ``resources`` and in ``output.tables.LAYOUTS``.
"""
