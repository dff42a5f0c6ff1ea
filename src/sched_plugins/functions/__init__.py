"""The Lambda handlers: each parses its event, calls one use case, and returns plain data.

What a use case raises, a handler lets through where Lambda, Step Functions or a stream is to try again; the three
that people call (submit, cancel, and start for an attached worker) answer with the error instead.
"""
