"""The ``sched`` command: tables and progress for people, one JSON document for programs.

Nothing heavy is imported before a command runs, so that ``sched --help`` answers at once.
"""
