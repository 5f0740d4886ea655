"""The signed app that holds virtual machines: a copy of the interpreter that is entitled to.

Apple's framework looks at the main executable of the process. The interpreter that everybody shares is not ours to
sign, so a copy of it gets an identity of its own, and with it a name and a place in the privacy settings.
"""
