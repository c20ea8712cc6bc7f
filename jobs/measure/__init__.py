"""The verbs that measure, one file each: parse, call, print."""
