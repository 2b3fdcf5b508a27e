"""Networks of any kind, read off the jaxpr of the function that applies them.

From below: masses that never overflow, the tape of what is done to them, the values
of a jaxpr, the rules, the interpreter with its scans, and the network itself.
"""
